# shellcheck shell=bash disable=SC2154 # pipeline.sh sets the variables used here
# Sourced by pipeline.sh: the language model (--use_lm) and n-grams (--ngram_file). They
# take part where a decode config has their weight, lm_weight or ngram_weight.

uses() { # uses FILE NAME: whether a decode config has a weight other than 0 for lm or ngram
    [[ $(setting "$1" "$2_weight") =~ ^[0-9.]*[1-9] ]]
}

check_lm() { # that options and weights belong together
    check_fusion lm --use_lm "$use_lm"
    check_fusion ngram --ngram_file "$([ -z "$ngram_file" ] || echo true)"
    ! $use_lm || [ -f "$lm_config" ] || die "$lm_config: $(no_file "$lm_config") (--lm_config)"
    [ -z "$ngram_file" ] || [ -f "$ngram_file" ] || die "$ngram_file: $(no_file "$ngram_file") (--ngram_file)"
}

check_fusion() { # check_fusion NAME OPTION GIVEN: GIVEN is true if OPTION was given
    local file user=""
    for file in $decode_configs; do if uses "$file" "$1"; then user=$file; fi; done
    if [ "$3" = true ]; then
        [ -n "$user" ] || die "$2: none of --decode_configs has $1_weight"
    else
        [ -z "$user" ] || die "$user: $1_weight needs $2"
    fi
}

lm_data() { # print the training and the validation texts
    printf '%s\n' "${lm_train_text:-$dumpdir/$perturbed_set}" "$dumpdir/$valid_set"
}

lm_step() { # lm_step LABEL FOLDER INPUT... -- OPTION...: train, with what both steps share
    local label=$1 folder=$2 data inputs=() options resumable=""
    shift 2
    while [ "$1" != -- ]; do inputs+=("$1") && shift; done
    shift
    mapfile -t data < <(lm_data)
    options=(--task lm --token_list "$token_dir/tokens.txt" --token_type "$token_type"
        --train_data "${data[0]}" --valid_data "${data[1]}" --stats_dir "$lm_stats"
        --target_text "$target_text")
    mapfile -t -O ${#options[@]} options < <(tokeniser_option)
    ! $allow_unk || options+=(--allow_unk true)
    [ "$folder" != "$lm_exp" ] || resumable=--resumable
    # shellcheck disable=SC2086 # nothing, or one option; several options in one variable
    step $resumable train "$label" "$folder" "$lm_config" "$token_dir" "${data[@]}" \
        ${inputs[@]+"${inputs[@]}"} -- --config "$lm_config" "${options[@]}" "$@" $lm_args \
        -- --ngpu "$ngpu"
}

collect_lm_stats() { ! $use_lm || lm_step lm "$lm_stats" -- --collect_stats; }

train_lm() {
    ! $use_lm ||
        lm_step lm "$lm_exp" "$lm_stats/train" "$lm_stats/valid" -- --output_dir "$lm_exp"
}

average_lm() {
    ! $use_lm || step average lm "$lm_exp" "$lm_exp/.done.train" -- \
        --exp_dir "$lm_exp" --metric valid.loss.min --nbest "$nbest"
}

fusion_options() { # fusion_options DECODE_CONFIG: print options for decoding, a word a line
    ! { $use_lm && uses "$1" lm; } || printf '%s\n' --lm "$lm_exp"
    ! { [ -n "$ngram_file" ] && uses "$1" ngram; } || printf '%s\n' --ngram "$ngram_file"
}

fusion_inputs() { # fusion_inputs DECODE_CONFIG: print these files, and its hotwords
    local hotwords
    hotwords=$(setting "$1" hotwords)
    [ ! -f "$hotwords" ] || printf '%s\n' "$hotwords" # else a list, which YAML holds
    ! { $use_lm && uses "$1" lm; } || printf '%s\n' "$lm_exp/model.pth"
    ! { [ -n "$ngram_file" ] && uses "$1" ngram; } || printf '%s\n' "$ngram_file"
}
