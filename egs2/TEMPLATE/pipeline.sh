#!/usr/bin/env bash
# From recordings (or texts) to a table of results: the pipeline of all recipes. A recipe's
# run.sh sets the options below and calls this from the recipe's folder.
set -euo pipefail

PIPELINE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/pipeline.sh
TEMPLATE=${PIPELINE%/*}

# The functions stage_NAME are in stages_*.sh.
STAGES=(
    "data: prepare data/SET with the recipe's local/data.sh"
    "speed_perturb: check the data folders; copy the training set at other speeds"
    "format: write the audio to DUMPDIR/org in one format at one sampling rate"
    "filter: drop what is too short, too long or has no text; make features (--feats_type)"
    "tokens: make the token list from the training text"
    "stats: collect lengths and feature statistics, once for all attention types"
    "encoder: train the encoder with CTC, once for all attention types"
    "train: train a model for each attention type"
    "average: average each model's best checkpoints"
    "decode: recognise each test set, with each decode config"
    "score: count the errors, those of the baselines too"
    "pack: write RESULTS.md, gather the configs and pack each model into a folder"
    "upload: put the packed models on the hub, as --hub_name, with the token in HF_TOKEN"
)

# options (--help shows the text after each #; options.sh reads these lines)
stage=data # first stage to run: a number or a name
stop_stage=pack # last stage to run: a number or a name
skip_stages="" # stages to leave out: numbers or names
dry_run=false # print the commands and which of them are done; change nothing
force=false # run the selected stages even if their results exist
help=false # print this and stop
nj=2 # parallel processes that work on data
ngpu=0 # GPUs for training and decoding; 0 uses the CPU
threads=0 # CPU threads of training and decoding; 0 leaves it to PyTorch (all cores)
train_jobs=1 # attention types trained in parallel, each with --threads threads
job=local # where commands run: local, or slurm (sbatch)
slurm_opts="" # more options for sbatch, such as "--partition gpu --time 24:00:00"
task=asr # asr, st (translation), slu (intents) or sum (summaries)
target_text=text # table of the data folders with the text to predict
source_text="" # st, slu: table of the words spoken, for CTC; sum: table of the sources
train_set="train" # training set, a folder under data/
valid_set="valid" # validation set
test_sets="test" # test sets, one or more
local_data_opts="" # options for the recipe's local/data.sh
speed_factors="" # speeds for the training set, such as "0.9 1.0 1.1"; empty for none
fs=16000 # sampling rate in Hz of the formatted audio
audio_format=flac # format of the formatted audio: flac, flac.ark or wav
channel="" # channel of multi-channel audio: a number from 0, or mean; empty refuses it
drop_bad=false # leave out recordings that cannot be read, in test sets too; tables show it
min_seconds=0.1 # shorter training and validation utterances are dropped
max_seconds=30 # longer training and validation utterances are dropped
max_words=400 # sum: sources are cut to this number of words
feats_type=raw # raw: features are computed while training; fbank_zip, fbank_ark, ssl: once
frontend_config="" # front-end laid over the training YAML: a name in conf/frontend, or a file
frontend_model="" # pretrained front-end: name on the hub, or folder; empty: the YAML's
token_type=bpe # text units: bpe, unigram, char, word, or hf (those of a language model)
hf_tokenizer="" # token_type hf: a tokenizer of Transformers or its model: folder or hub name
nbpe=500 # number of units for bpe and unigram
train_config=conf/train.yaml # the model and its training
encoder_config="" # training of the encoder alone, with CTC; empty for none
attention="mha mtla_s2" # attention types to compare: names in conf/attention, or files
allow_unk=false # train on texts with symbols that the token list lacks, as <unk>
train_opts="" # more options for training, such as "--max_epoch 5"
encoder_metric=valid.cer_ctc.min # metric that selects the encoder's best checkpoints
average_metric=valid.acc.max # metric that selects a model's best checkpoints
nbest=5 # number of a model's checkpoints to average
encoder_nbest=3 # number of the encoder's checkpoints to average
decode_configs=conf/decode.yaml # how to decode, one or more files; results carry their names
use_lm=false # train a language model for decode configs that have lm_weight
lm_config=conf/lm.yaml # the language model and its training
lm_train_text="" # its training texts, a table; empty for those of the training set
lm_args="" # more options for its training, such as "--max_epoch 5"
lm_exp="" # folder for it; empty derives it from lm_config, lm_args and the tokens
ngram_file="" # n-grams over the tokens (ARPA) for decode configs that have ngram_weight
metrics="" # metrics of stage score, the table's first; empty for the task's own
baselines="" # systems to compare with: most_frequent, majority, first_sentence, faster_whisper
baseline_opts="" # more options for them, such as "--whisper_model DIR"
hub_name="" # for stage upload: owner/name on the hub; the attention type is added
readme="" # a README.md whose results block this run replaces; empty for none
expdir=exp # folder for models and results
dumpdir=dump/raw # folder for formatted audio
tag="" # name of this experiment; empty derives it from tokens and settings of the training
# shellcheck disable=SC2034 # options.sh reads it
option="" # declare an option of the recipe: "name=value # help"; {name} inserts its value
# end of options

. "$TEMPLATE/espnet_options.sh"
. "$TEMPLATE/options.sh"
. "$TEMPLATE/checks.sh"
. "$TEMPLATE/names.sh"
. "$TEMPLATE/step.sh"
. "$TEMPLATE/cmd.sh"
. "$TEMPLATE/stages_data.sh"
. "$TEMPLATE/stages_train.sh"
. "$TEMPLATE/stages_results.sh"
. "$TEMPLATE/lm.sh"

parse_options "$@"
if $help; then print_help && exit 0; fi
protect_readme
. "$TEMPLATE/path.sh"

# ---------------------------------------------------------------- names used by the stages
# shellcheck disable=SC2206 # an option that is a list is one string of words
{
    tests=($test_sets) attentions=($attention) decoders=($decode_configs)
    mapfile -t held_out < <(printf '%s\n' "$valid_set" $test_sets | awk '!seen[$0]++')
    perturbed_set=$train_set${speed_factors:+_sp}
    all_sets=("$train_set" "${held_out[@]}")
    dumped_sets=("$perturbed_set" "${held_out[@]}")
}
prefix=$(recipe_values)
if [ -z "$prefix" ] && [ "$train_set" != train ]; then # the user's own data
    prefix=${train_set}_ readme=""
fi
[ "$token_type" != hugging_face ] || token_type=hf # ESPnet's name
case $token_type in
    hf) token_dir=data/token_list/${prefix}hf_$(name_of "${hf_tokenizer%/}") ;;
    bpe | unigram) token_dir=data/token_list/$prefix${token_type}_$nbpe ;;
    *) token_dir=data/token_list/$prefix$token_type ;;
esac
if [ -z "$tag" ]; then
    tag=$(basename "$train_config" .yaml)_${token_dir##*/}${speed_factors:+_sp}
    tag+=${frontend_config:+_$(basename "$frontend_config" .yaml)}
    tag+=$(changes_of feats_type frontend_model encoder_config train_opts)
fi
if [ -z "$metrics" ]; then
    case $task in
        st) metrics=bleu ;;
        slu) metrics=intent ;;
        sum) metrics=rouge ;;
        *) metrics="wer cer" ;;
    esac
fi
stats=$expdir/stats_$tag encoder=$expdir/encoder_$tag packed=$expdir/packed_$tag
lm_stats=$expdir/lm_stats_${token_dir##*/}
lm_exp=${lm_exp:-$expdir/lm_$(name_of "$lm_config")_${token_dir##*/}$(changes_of lm_args)}
feats=$dumpdir # the folders that training and decoding read
[ "$feats_type" = raw ] ||
    feats=$dumpdir/${feats_type}_$(name_of "${frontend_config:-$train_config}")$(
        changes_of frontend_model
    )

check_options
check_lm
for note in ${option_notes[@]+"${option_notes[@]}"}; do say "   $note"; done
if [ "$threads" -gt 0 ]; then export OMP_NUM_THREADS=$threads; fi
trap interrupted INT TERM HUP
run_stages
