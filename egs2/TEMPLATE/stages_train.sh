# shellcheck shell=bash disable=SC2154 # pipeline.sh sets the variables used here
# Sourced by pipeline.sh: the stages that train, up to one averaged model per attention type.

training_options() { # print the options that all trainings share, a word a line
    local file
    file=$(frontend_file)
    printf '%s\n' --token_list "$token_dir/tokens.txt" --token_type "$token_type" \
        --train_data "$feats/$perturbed_set" --valid_data "$feats/$valid_set" \
        --stats_dir "$stats" --task "$task" --target_text "$target_text" \
        --source_text "$source_text"
    [ -z "$file" ] || printf '%s\n' --frontend_config "$file"
    [ -z "$frontend_model" ] || printf '%s\n' --frontend_conf "model=$frontend_model"
    tokeniser_option
    ! $allow_unk || printf '%s\n' --allow_unk true
}

tokeniser_option() { # print the option that names the tokeniser's files, a word a line
    case $token_type in
        bpe | unigram) printf '%s\n' --bpemodel "$token_dir/bpe.model" ;;
        hf) printf '%s\n' --bpemodel "$token_dir/tokenizer" ;;
    esac
}

training_inputs() { # print the inputs that all trainings share, one a line
    printf '%s\n' "$token_dir" "$feats/$perturbed_set" "$feats/$valid_set"
    [ "$token_type" != hf ] || printf '%s\n' "$token_dir/tokenizer"
    frontend_file
}

stage_stats() {
    local options inputs
    mapfile -t options < <(training_options)
    mapfile -t inputs < <(training_inputs)
    step train stats "$stats" "$train_config" "${inputs[@]}" -- \
        --config "$train_config" "${options[@]}" --collect_stats
    collect_lm_stats
}

train_model() { # train_model LABEL FOLDER CONFIG INPUT... -- OPTION...
    local label=$1 folder=$2 config=$3 options inputs shared_inputs
    shift 3
    inputs=("$config")
    while [ "$1" != -- ]; do inputs+=("$1") && shift; done
    shift
    mapfile -t options < <(training_options)
    mapfile -t shared_inputs < <(training_inputs)
    inputs+=("$stats/train" "$stats/valid" "${shared_inputs[@]}")
    # shellcheck disable=SC2086 # several options in one variable
    step --resumable train "$label" "$folder" "${inputs[@]}" -- \
        --config "$config" "${options[@]}" --output_dir "$folder" "$@" $train_opts \
        -- --ngpu "$ngpu"
}

stage_encoder() {
    if [ -z "$encoder_config" ]; then
        say "   no --encoder_config: each model trains its own encoder"
        return
    fi
    train_model train "$encoder" "$encoder_config" --
    step average average "$encoder" "$encoder/.done.train" -- \
        --exp_dir "$encoder" --metric "$encoder_metric" --nbest "$encoder_nbest"
}

stage_train() {
    local name
    train_lm
    for name in "${attentions[@]}"; do beside train_attention "$name"; done
    wait_for_children
}

train_attention() { # train_attention NAME
    local name=$1 file inputs options
    file=$(attention_file "$name")
    inputs=("$file")
    # Training finds the files of $ROOT/conf by name, and the recipe's own by path.
    [[ $file == "$ROOT"/* ]] || name=$file
    options=(--attention "$name")
    if [ -n "$encoder_config" ]; then
        inputs+=("$encoder/model.pth")
        options+=(--encoder_model "$encoder/model.pth")
    fi
    train_model "$(name_of "$name")" "$(model_of "$name")" "$train_config" \
        "${inputs[@]}" -- "${options[@]}"
}

stage_average() {
    local name folder
    average_lm
    for name in "${attentions[@]}"; do
        folder=$(model_of "$name")
        step average "$(name_of "$name")" "$folder" "$folder/.done.train" -- \
            --exp_dir "$folder" --metric "$average_metric" --nbest "$nbest"
    done
}
