#!/usr/bin/env bash
# The road from recordings (or texts) to a table of results, shared by all recipes. A recipe's
# run.sh sets the options below and calls this from the recipe's folder.
set -euo pipefail

PIPELINE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/pipeline.sh
TEMPLATE=${PIPELINE%/*}
. "$TEMPLATE/options.sh"
. "$TEMPLATE/step.sh"
. "$TEMPLATE/cmd.sh"
. "$TEMPLATE/names.sh"

STAGES=(
    "data: prepare data/SET with the recipe's local/data.sh"
    "speed_perturb: check the data folders; copy the training set at other speeds"
    "format: write the audio to DUMPDIR/org as one kind of file at one rate"
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

# options (--help shows the text after each #)
stage=1 # first stage to run: a number or a name
stop_stage=12 # last stage to run: a number or a name
skip_stages="" # stages to leave out: numbers or names
dry_run=false # print what would run and what is already done; change nothing
force=false # run the chosen stages even where their results are there
help=false # print this and stop
nj=2 # processes that work on data side by side
ngpu=0 # GPUs for training and decoding; 0 uses the CPU
threads=0 # CPU threads of training and decoding; 0 leaves it to PyTorch (all cores)
train_jobs=1 # attention types that train side by side, with so many threads each
job=local # where commands run: local, or slurm (sbatch)
slurm_opts="" # more options for sbatch, such as "--partition gpu --time 24:00:00"
task=asr # what is learnt: asr, st (translation), slu (intents) or sum (summaries)
target_text=text # table of the data folders with the text that is to come out
source_text="" # st, slu: table of the words spoken, for CTC; sum: table of the sources
train_set="train" # training set, a folder under data/
valid_set="valid" # validation set
test_sets="test" # test sets, one or more
local_data_opts="" # options for the recipe's local/data.sh
speed_factors="" # speeds for the training set, such as "0.9 1.0 1.1"; empty for none
fs=16000 # sampling rate in Hz that all audio is brought to
audio_format=flac # how audio is stored: flac, flac.ark or wav
channel="" # of recordings with several: a number from 0, or mean; empty refuses them
drop_bad=false # leave out recordings that cannot be read, and list them, instead of stopping
min_seconds=0.1 # shorter training and validation utterances are dropped
max_seconds=30 # longer training and validation utterances are dropped
max_words=400 # sum: sources are cut to so many words
feats_type=raw # raw: features are made as sound is read; made once: fbank_zip, fbank_ark, ssl
frontend_config="" # front-end laid over the training YAML: a name in conf/frontend, or a file
token_type=bpe # text units: bpe, unigram, char or word
nbpe=500 # number of units for bpe and unigram
train_config=conf/train.yaml # the model and its training
encoder_config="" # training of the encoder alone, with CTC; empty to go without
attention="mha mtla_s2" # attention types to compare: names in conf/attention, or files
allow_unk=false # train on texts with symbols that the token list lacks, as <unk>
train_opts="" # more options for training, such as "--max_epoch 5"
encoder_metric=valid.cer_ctc.min # by which the best checkpoints of the encoder are chosen
average_metric=valid.acc.max # by which the best checkpoints of a model are chosen
nbest=5 # checkpoints of a model that are averaged
encoder_nbest=3 # checkpoints of the encoder that are averaged
decode_configs=conf/decode.yaml # how to decode, one or more files; results carry their names
metrics="" # what is counted in stage score, the table's first; empty for the task's own
baselines="" # trivial systems to show beside: most_frequent, majority, first_sentence
hub_name="" # owner/name on the hub; the attention type is added. For stage upload
readme="" # a README.md whose results block is replaced by this run's; empty for none
expdir=exp # folder for models and results
dumpdir=dump/raw # folder for formatted audio
tag="" # name of this experiment; empty takes it from train_config and the tokens
# shellcheck disable=SC2034 # options.sh takes it apart
option="" # one more option, of the recipe: "name=value # help"; {name} stands for it
# end of options

parse_options "$@"
TRAIN=$train_set${speed_factors:+_sp}
# shellcheck disable=SC2206 # lists stand in one variable, words apart
{
    tests=($test_sets) attentions=($attention) decoders=($decode_configs)
    mapfile -t held_out < <(printf '%s\n' "$valid_set" $test_sets | awk '!seen[$0]++')
}
prefix=$(own_values)
if [ -z "$prefix" ] && [ "$train_set" != train ]; then # data of one's own, beside the recipe's
    prefix=${train_set}_ readme=""
fi
case $token_type in
    bpe | unigram) token_dir=data/token_list/$prefix${token_type}_$nbpe ;;
    *) token_dir=data/token_list/$prefix$token_type ;;
esac
if [ -z "$tag" ]; then
    tag=$(basename "$train_config" .yaml)_${token_dir##*/}${speed_factors:+_sp}
    tag+=${frontend_config:+_$(basename "$frontend_config" .yaml)}
fi
if [ -z "$metrics" ]; then
    case $task in st) metrics=bleu ;; slu) metrics=intent ;; sum) metrics=rouge ;; *) metrics="wer cer" ;; esac
fi
stats=$expdir/stats_$tag
encoder=$expdir/encoder_$tag

feats=$dumpdir # the folders that training and decoding read
[ "$feats_type" = raw ] ||
    feats=$dumpdir/${feats_type}_$(basename "${frontend_config:-$train_config}" .yaml)

check_options() {
    local file
    for file in "$train_config" $encoder_config "${decoders[@]}"; do
        [ -f "$file" ] || die "$file: no such file (--train_config, --encoder_config," \
            "--decode_configs)"
    done
    for file in "${attentions[@]}"; do attention_file "$file" >/dev/null; done
    frontend_file >/dev/null
    case $feats_type:$task in raw:* | *:asr | *:st | *:slu) ;; *)
        die "--feats_type $feats_type: --task sum reads text" ;;
    esac
    case $feats_type in raw | fbank_zip | fbank_ark | ssl) ;; *)
        die "--feats_type: '$feats_type' is not raw, fbank_zip, fbank_ark or ssl" ;;
    esac
    [[ $nj =~ ^[1-9][0-9]*$ ]] || die "--nj: '$nj' is not a positive number"
    [[ $ngpu =~ ^[0-9]+$ ]] || die "--ngpu: '$ngpu' is not a number"
    [[ $threads =~ ^[0-9]+$ ]] || die "--threads: '$threads' is not a number"
    [[ $train_jobs =~ ^[1-9][0-9]*$ ]] ||
        die "--train_jobs: '$train_jobs' is not a positive number"
    case $token_type in bpe | unigram | char | word) ;; *)
        die "--token_type: '$token_type' is not bpe, unigram, char or word" ;;
    esac
    case $task in asr | st | slu) ;; sum)
        [ -n "$source_text" ] || die "--task sum needs --source_text, the table of sources"
        ;; *) die "--task: '$task' is not asr, st, slu or sum" ;;
    esac
    case $job in local | slurm) ;; *) die "--job: '$job' is not local or slurm" ;; esac
    [ "${#attentions[@]}" -gt 0 ] || die "--attention: name at least one"
    [ "${#tests[@]}" -gt 0 ] || die "--test_sets: name at least one"
}

stage_data() {
    local set own_args scripts
    [ -x local/data.sh ] || die "local/data.sh: no such file, or not executable (chmod +x)"
    # Scripts of other recipes count too, where data.sh names their folder.
    mapfile -t scripts < <(grep -oE '(\.\./)+[[:alnum:]_/]*local' local/data.sh | sort -u)
    mapfile -t scripts < <(find -L local ${scripts[@]+"${scripts[@]}"} -type d \
        ! -name __pycache__)
    mapfile -t own_args < <(own_arguments)
    for set in "$train_set" "${held_out[@]}"; do
        if ! $dry_run && [ ! -d "data/$set" ]; then rm -f data/.done.data; fi
    done
    # shellcheck disable=SC2086 # several options stand in one variable
    step local/data.sh data data "${scripts[@]}" -- ${own_args[@]+"${own_args[@]}"} \
        $local_data_opts
    for set in "$train_set" "${held_out[@]}"; do
        $dry_run || [ -d "data/$set" ] || die "local/data.sh has not made data/$set"
    done
}

check_tables() { # of data folders that are there
    local set option
    for set in "$train_set" "${held_out[@]}"; do
        for option in target_text source_text; do
            if [ -z "${!option}" ] || [ ! -d "data/$set" ]; then continue; fi
            [ -f "data/$set/${!option}" ] || die "--$option ${!option}: no such table;" \
                "$(tables_of "data/$set")"
        done
    done
}

stage_speed_perturb() {
    local set empty no_text=()
    $dry_run || check_tables
    if [ "$task" = sum ]; then
        say "   no sound to check or perturb; stage 4 checks the texts"
        return
    fi
    [ "$target_text" = text ] || no_text=(--no_text) # the others are checked all the same
    for set in "$train_set" "${held_out[@]}"; do
        empty=()
        if only_scored "$set"; then empty=(--allow_empty_text); fi
        step validate_data "check.$set" "data/$set" "data/$set" -- "data/$set" \
            ${no_text[@]+"${no_text[@]}"} ${empty[@]+"${empty[@]}"}
    done
    [ -n "$speed_factors" ] || return 0
    # shellcheck disable=SC2086 # a list of factors
    step perturb_speed "$TRAIN" "data/$TRAIN" "data/$train_set" -- \
        "data/$train_set" "data/$TRAIN" --factors $speed_factors
}

stage_format() {
    local set extra=()
    if [ "$task" = sum ]; then
        say "   no sound to format"
        return
    fi
    if [ -n "$channel" ]; then extra+=(--channel "$channel"); fi
    if $drop_bad; then extra+=(--drop_bad); fi
    for set in "$TRAIN" "${held_out[@]}"; do
        volatile=(--nj "$nj")
        step format_audio "$set" "$dumpdir/org/$set" "data/$set" -- \
            "data/$set" "$dumpdir/org/$set" --fs "$fs" --audio_format "$audio_format" \
            ${extra[@]+"${extra[@]}"}
    done
}

stage_filter() {
    local set limits empty
    for set in "$TRAIN" "${held_out[@]}"; do
        empty=()
        if only_scored "$set"; then empty=(--allow_empty_text); fi
        if [ "$task" = sum ]; then
            step filter_texts "$set" "$dumpdir/$set" "data/$set" -- \
                "data/$set" "$dumpdir/$set" --source_text "$source_text" \
                --target_text "$target_text" --max_words "$max_words" ${empty[@]+"${empty[@]}"}
            continue
        fi
        limits=(--min_seconds "$min_seconds" --max_seconds "$max_seconds")
        # A test set stays whole, or results could not be compared.
        [[ " $test_sets " != *" $set "* ]] || limits=(--min_seconds 0 --max_seconds inf)
        step filter_data "$set" "$dumpdir/$set" "$dumpdir/org/$set" -- \
            "$dumpdir/org/$set" "$dumpdir/$set" "${limits[@]}" ${empty[@]+"${empty[@]}"}
        [ "$feats_type" = raw ] || dump_features "$set"
    done
}

dump_features() { # dump_features SET: made once, with the front-end of the training
    local storage front=()
    case $feats_type in
        fbank_zip) storage=(--archive zip --dtype float32) ;;
        fbank_ark) storage=(--archive ark --dtype float32) ;;
        ssl) storage=(--archive zip --dtype float16) ;;
    esac
    if [ -n "$frontend_config" ]; then front=(--frontend_config "$(frontend_file)"); fi
    volatile=(--nj "$nj" --ngpu $((ngpu > 0)))
    step dump_features "$1.features" "$feats/$1" "$dumpdir/$1" "$train_config" \
        ${front[1]+"${front[1]}"} -- \
        "$dumpdir/$1" "$feats/$1" --config "$train_config" "${storage[@]}" \
        ${front[@]+"${front[@]}"}
}

stage_tokens() {
    local size=() texts=("$dumpdir/$TRAIN/$target_text")
    [ -z "$source_text" ] || texts+=("$dumpdir/$TRAIN/$source_text") # one list for both
    case $token_type in bpe | unigram) size=(--vocab_size "$nbpe") ;; esac
    step tokenise "${token_dir##*/}" "$token_dir" "${texts[@]}" -- \
        --text "${texts[@]}" --output_dir "$token_dir" \
        --token_type "$token_type" ${size[@]+"${size[@]}"}
}

set_train_args() { # arguments that all training shares
    train_args=(
        --token_list "$token_dir/tokens.txt" --token_type "$token_type"
        --train_data "$feats/$TRAIN" --valid_data "$feats/$valid_set"
        --stats_dir "$stats" --task "$task" --target_text "$target_text"
        --source_text "$source_text"
    )
    train_inputs=("$token_dir" "$feats/$TRAIN" "$feats/$valid_set")
    if [ -n "$frontend_config" ]; then
        train_args+=(--frontend_config "$(frontend_file)")
        train_inputs+=("$(frontend_file)")
    fi
    case $token_type in bpe | unigram) train_args+=(--bpemodel "$token_dir/bpe.model") ;; esac
    ! $allow_unk || train_args+=(--allow_unk true)
}

stage_stats() {
    local train_args train_inputs
    set_train_args
    step train "stats" "$stats" "$train_config" "${train_inputs[@]}" -- \
        --config "$train_config" "${train_args[@]}" --collect_stats
}

train_model() { # train_model LABEL FOLDER CONFIG INPUT... -- OPTION...
    local label=$1 folder=$2 config=$3 train_args train_inputs inputs=()
    shift 3
    while [ "$1" != -- ]; do inputs+=("$1") && shift; done
    shift
    set_train_args
    volatile=(--ngpu "$ngpu") resumable=true
    # shellcheck disable=SC2086 # several options stand in one variable
    step train "$label" "$folder" "$config" ${inputs[@]+"${inputs[@]}"} "$stats/train" \
        "$stats/valid" "${train_inputs[@]}" -- \
        --config "$config" "${train_args[@]}" --output_dir "$folder" "$@" \
        $train_opts
}

stage_encoder() {
    if [ -z "$encoder_config" ]; then
        say "   no --encoder_config: the encoder is trained with each model"
        return
    fi
    train_model train "$encoder" "$encoder_config" --
    step average average "$encoder" "$encoder/.done.train" -- \
        --exp_dir "$encoder" --metric "$encoder_metric" --nbest "$encoder_nbest"
}

stage_train() {
    local att
    for att in "${attentions[@]}"; do beside train_attention "$att"; done
    join_them
}

train_attention() {
    local att=$1 file from=() init=()
    if [ -n "$encoder_config" ]; then
        from=("$encoder/model.pth")
        init=(--init_param "$encoder/model.pth:encoder:encoder" "$encoder/model.pth:ctc:ctc")
    fi
    file=$(attention_file "$att")
    [[ $file == "$ROOT"/* ]] || att=$file
    train_model "$(name_of "$att")" "$(model_of "$att")" "$train_config" "$file" \
        ${from[@]+"${from[@]}"} -- --attention "$att" ${init[@]+"${init[@]}"}
}

stage_average() {
    local att folder
    for att in "${attentions[@]}"; do
        folder=$(model_of "$att")
        step average "$(name_of "$att")" "$folder" "$folder/.done.train" -- \
            --exp_dir "$folder" --metric "$average_metric" --nbest "$nbest"
    done
}

for_each_decoding() { # calls $1 with: label, model folder, decode config, test set, output
    local att config set folder
    for att in "${attentions[@]}"; do
        folder=$(model_of "$att")
        for config in "${decoders[@]}"; do
            for set in "${tests[@]}"; do
                "$1" "$(name_of "$att").$(name_of "$config").$set" "$folder" "$config" \
                    "$set" "$folder/decode_$(name_of "$config")/$set"
            done
        done
    done
}

decode_one() {
    volatile=(--ngpu $((ngpu > 0)))
    step inference "$1" "$5" "$2/model.pth" "$3" "$feats/$4" -- \
        --model_dir "$2" --data "$feats/$4" --output_dir "$5" --config "$3"
}

score_one() {
    local metric
    for metric in $metrics; do
        quiet=true
        step score "$1.$metric" "$5/score_$metric" "$dumpdir/$4/$target_text" \
            "$5/1best_recog/text" -- "$metric" --ref "$dumpdir/$4/$target_text" \
            --hyp "$5/1best_recog/text" --output_dir "$5/score_$metric"
    done
}

make_baselines() { # what a system scores that has learnt next to nothing
    local name set folder
    for name in $baselines; do
        for set in "${tests[@]}"; do
            folder=$expdir/baseline_$name/$set
            quiet=true
            step baseline "$name.$set" "$folder" "$dumpdir/$TRAIN/$target_text" \
                "$dumpdir/$set" -- "$name" --train "$dumpdir/$TRAIN" \
                --data "$dumpdir/$set" --target_text "$target_text" \
                --source_text "$source_text" --output_dir "$folder"
            score_one "$name.$set" "" "" "$set" "$folder"
        done
    done
}

stage_decode() { for_each_decoding decode_one; }
stage_score() {
    make_baselines
    for_each_decoding score_one
}

add_results() { inputs+=("$5/efficiency.json" "$5/score_${metrics%% *}/score.json"); }

stage_pack() {
    local packed=$expdir/packed_$tag att set models=() names=() inputs=() trivial=()
    for att in "${attentions[@]}"; do models+=("$(model_of "$att")"); done
    for att in "${decoders[@]}"; do names+=("$(name_of "$att")"); done
    for att in $baselines; do
        trivial+=("$expdir/baseline_$att")
        for set in "${tests[@]}"; do
            inputs+=("$expdir/baseline_$att/$set/score_${metrics%% *}/score.json")
        done
    done
    for_each_decoding add_results
    quiet=true
    step results results "$packed" "${inputs[@]}" -- --exp "${models[@]}" \
        --decodes "${names[@]}" --sets "${tests[@]}" --metric "${metrics%% *}" \
        --output "$packed/RESULTS.md" ${trivial[@]+--baselines "${trivial[@]}"} \
        ${readme:+--readme "$readme"}
    for_each_model pack_one
    $dry_run || gather_configs
}

for_each_model() { # calls $1 with: attention type, model folder, folder of the packed model
    local att
    for att in "${attentions[@]}"; do
        "$1" "$(name_of "$att")" "$(model_of "$att")" \
            "$expdir/packed_$tag/$(basename "$(model_of "$att")")"
    done
}

pack_one() { # its card tells of this model's scores alone
    local file scores=()
    for file in "${inputs[@]}"; do [[ $file != "$2"/* ]] || scores+=("$file"); done
    quiet=true
    step pack "$1" "$3" "$2/model.pth" "${decoders[0]}" "${scores[@]}" -- \
        --model_dir "$2" --output_dir "$3" --config "${decoders[0]}" \
        --name "${hub_name:-$(basename "$2")}${hub_name:+-$1}"
}

stage_upload() {
    [ -n "$hub_name" ] || die "stage upload needs --hub_name owner/name"
    for_each_model upload_one
}

upload_one() { step upload "$1" "$3" "$3/model.safetensors" "$3/README.md" -- "$3" "$hub_name-$1"; }

gather_configs() { # what the results were made with, beside them; the weights stay put
    local att
    mkdir -p "$packed/conf/attention"
    # shellcheck disable=SC2046,SC2086 # an empty encoder_config is no word
    cp "$train_config" $encoder_config $(frontend_file) "${decoders[@]}" "$packed/conf"
    for att in "${attentions[@]}"; do
        cp "$(attention_file "$att")" "$packed/conf/attention"
        cp "$(model_of "$att")/config.yaml" "$packed/$(basename "$(model_of "$att")").yaml"
    done
    cp -r "$token_dir" "$packed"
    cp "$packed"/RESULTS.* .
    say
    grep -E '^(#|\|)' RESULTS.md
    say
    say "$PWD/RESULTS.md has it all; $packed holds the configs too"
}

main() {
    check_options
    if [ "$threads" -gt 0 ]; then export OMP_NUM_THREADS=$threads; fi
    run_stages
}

if $help; then print_help && exit 0; fi
. "$TEMPLATE/path.sh"
trap interrupted INT TERM
main
