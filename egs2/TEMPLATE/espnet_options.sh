# shellcheck shell=bash disable=SC2034 # options.sh uses both tables
# Sourced by pipeline.sh: ESPnet2's option names, and what becomes of them here.

declare -A ESPNET_ALIASES=( # ESPnet's name -> ours, with the same values
    [inference_config]=decode_configs
    [speed_perturb_factors]=speed_factors
    [min_wav_duration]=min_seconds
    [max_wav_duration]=max_seconds
    [hf_repo]=hub_name
    [hugging_face_model_name_or_path]=hf_tokenizer
)
declare -A ESPNET_REFUSED=( # ESPnet's name -> what to use instead
    [inference_nj]="one process decodes each test set, many utterances at a time; batch_frames in the YAML of --decode_configs sets how many"
    [gpu_inference]="--ngpu 1 trains and decodes on a GPU"
    [inference_tag]="results carry the names of the files in --decode_configs"
    [inference_args]="write the options into a YAML file for --decode_configs"
    [inference_asr_model]="stage average writes the one model that is decoded; see --average_metric and --nbest"
    [bpemode]="--token_type bpe or --token_type unigram"
    [use_ngram]="--ngram_file names an ARPA file over the tokens"
    [ngram_exp]="--ngram_file names an ARPA file over the tokens"
    [ngram_num]="--ngram_file names an ARPA file over the tokens"
    [lm_tag]="--lm_exp names the folder of the language model"
    [lm_stats_dir]="statistics of the language model are in EXPDIR/lm_stats_TOKENS: use --expdir"
    [lm_dev_text]="the language model is validated on --valid_set"
    [inference_lm]="stage average writes the one language model that is used; see --nbest"
    [local_score_opts]="--metrics names what is counted"
    [score_opts]="--metrics names what is counted"
    [skip_data_prep]="--stage stats starts after the data and the tokens"
    [skip_train]="--skip_stages \"stats encoder train average\""
    [skip_eval]="--stop_stage average"
    [skip_packing]="--skip_stages pack"
    [skip_upload_hf]="stage upload runs only when --stop_stage names it"
)
for name in asr st slu sum; do
    ESPNET_ALIASES[${name}_config]=train_config
    ESPNET_ALIASES[${name}_args]=train_opts
    ESPNET_ALIASES[${name}_tag]=tag
    ESPNET_REFUSED[${name}_exp]="models are in EXPDIR/TASK_TAG_ATTENTION: use --expdir and --tag"
    ESPNET_REFUSED[${name}_stats_dir]="statistics are in EXPDIR/stats_TAG: use --expdir and --tag"
done
unset name
