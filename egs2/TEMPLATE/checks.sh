# shellcheck shell=bash disable=SC2154 # the options are set by pipeline.sh
# Sourced by pipeline.sh: refuses wrong options before anything runs.

check_options() {
    local file name
    for file in "$train_config" $encoder_config $decode_configs; do
        [ -f "$file" ] || die "$file: $(no_file "$file") (--train_config," \
            "--encoder_config, --decode_configs)"
    done
    for file in $attention; do attention_file "$file" >/dev/null; done
    frontend_file >/dev/null
    check_choice task asr st slu sum
    check_choice feats_type raw fbank_zip fbank_ark ssl
    check_choice token_type bpe unigram char word hf
    [ "$token_type" != hf ] || [ -n "$hf_tokenizer" ] ||
        die "--token_type hf needs --hf_tokenizer, a folder or a name on the hub"
    check_choice job local slurm
    for name in nj train_jobs; do
        [[ ${!name} =~ ^[1-9][0-9]*$ ]] ||
            die "--$name: '${!name}' is not a positive number"
    done
    for name in ngpu threads; do
        [[ ${!name} =~ ^[0-9]+$ ]] || die "--$name: '${!name}' is not a number"
    done
    for name in attention test_sets decode_configs; do
        [[ ${!name} =~ [^[:space:]] ]] || die "--$name: name at least one"
    done
    if [ "$task" = sum ]; then
        [ -n "$source_text" ] || die "--task sum needs --source_text, the table of sources"
        [ "$feats_type" = raw ] || die "--feats_type $feats_type: --task sum reads text"
    fi
}

no_file() { # no_file PATH: print why it is not a file
    if [ -d "$1" ]; then
        echo "a folder; a file is needed"
    elif [ -e "$1" ]; then
        echo "a pipe, a socket or a device; a file is needed"
    else
        echo "no such file"
    fi
}

check_choice() { # check_choice OPTION CHOICE...
    local value=${!1} choices
    has_word "$value" "${@:2}" && return
    choices=$(printf '%s, ' "${@:2:$#-2}")
    die "--$1: '$value' is not ${choices%, } or ${!#}"
}

check_tables() { # that each data folder has the tables that --target_text etc. name
    local set option
    for set in "${all_sets[@]}"; do
        for option in target_text source_text; do
            if [ -z "${!option}" ] || [ ! -d "data/$set" ]; then continue; fi
            [ -f "data/$set/${!option}" ] || die "--$option ${!option}: no such table;" \
                "$(tables_of "data/$set")"
        done
    done
}
