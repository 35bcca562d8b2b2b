# shellcheck shell=bash disable=SC2154 # pipeline.sh sets the variables used here
# Sourced by pipeline.sh: the stages from the corpus to tokens and statistics.

stage_data() {
    local set arguments scripts
    [ -x local/data.sh ] || die "local/data.sh: no such file, or not executable (chmod +x)"
    # The scripts of another recipe are inputs too if data.sh names their folder.
    mapfile -t scripts < <(grep -oE '(\.\./)+[[:alnum:]_/]*local' local/data.sh | sort -u)
    mapfile -t scripts < <(find -L local ${scripts[@]+"${scripts[@]}"} -type d \
        ! -name __pycache__)
    mapfile -t arguments < <(recipe_arguments)
    for set in "${all_sets[@]}"; do
        if ! $dry_run && [ ! -d "data/$set" ]; then rm -f data/.done.data; fi
    done
    # shellcheck disable=SC2086 # several options in one variable
    step local/data.sh data data "${scripts[@]}" -- \
        ${arguments[@]+"${arguments[@]}"} $local_data_opts
    for set in "${all_sets[@]}"; do
        $dry_run || [ -d "data/$set" ] || die "local/data.sh has not made data/$set"
    done
}

stage_speed_perturb() {
    local set options
    $dry_run || check_tables
    if [ "$task" = sum ]; then
        say "   no sound to check or perturb; $(title_of filter) checks the texts"
        return
    fi
    for set in "${all_sets[@]}"; do
        options=("data/$set")
        [ "$target_text" = text ] || options+=(--no_text) # other tables are checked anyway
        if only_scored "$set"; then options+=(--allow_empty_text); fi
        if $drop_bad; then options+=(--drop_bad); fi
        step validate_data "check.$set" "data/$set" "data/$set" -- "${options[@]}"
    done
    [ -n "$speed_factors" ] || return 0
    # shellcheck disable=SC2086 # a list of factors
    step perturb_speed "$perturbed_set" "data/$perturbed_set" "data/$train_set" -- \
        "data/$train_set" "data/$perturbed_set" --factors $speed_factors
}

stage_format() {
    local set options=(--fs "$fs" --audio_format "$audio_format")
    if [ "$task" = sum ]; then
        say "   no sound to format"
        return
    fi
    if [ -n "$channel" ]; then options+=(--channel "$channel"); fi
    if $drop_bad; then options+=(--drop_bad); fi
    for set in "${dumped_sets[@]}"; do
        step format_audio "$set" "$dumpdir/org/$set" "data/$set" -- \
            "data/$set" "$dumpdir/org/$set" "${options[@]}" -- --nj "$nj"
        $dry_run || say_dropped "$set"
    done
}

say_dropped() { # say_dropped SET: how many of its utterances were left out, if any
    local folder=$dumpdir/org/$1 dropped
    if [ ! -s "$folder/dropped" ]; then return; fi
    dropped=$(wc -l <"$folder/dropped")
    say "   $1: $dropped of $((dropped + $(wc -l <"$folder/wav.scp"))) utterances are left" \
        "out: $folder/dropped has the reasons"
}

stage_filter() {
    local set empty
    for set in "${dumped_sets[@]}"; do
        empty=()
        if only_scored "$set"; then empty=(--allow_empty_text); fi
        if [ "$task" = sum ]; then
            step filter_texts "$set" "$dumpdir/$set" "data/$set" -- \
                "data/$set" "$dumpdir/$set" --source_text "$source_text" \
                --target_text "$target_text" --max_words "$max_words" ${empty[@]+"${empty[@]}"}
        else
            filter_audio "$set" ${empty[@]+"${empty[@]}"}
        fi
    done
}

filter_audio() { # filter_audio SET OPTION...
    local set=$1 limits=(--min_seconds "$min_seconds" --max_seconds "$max_seconds")
    shift
    # A test set stays whole, or results could not be compared.
    # shellcheck disable=SC2086 # a list of names
    if has_word "$set" $test_sets; then limits=(--min_seconds 0 --max_seconds inf); fi
    step filter_data "$set" "$dumpdir/$set" "$dumpdir/org/$set" -- \
        "$dumpdir/org/$set" "$dumpdir/$set" "${limits[@]}" "$@"
    [ "$feats_type" = raw ] || dump_features "$set"
}

dump_features() { # dump_features SET: with the front-end of the training
    local storage frontend=() file
    case $feats_type in
        fbank_zip) storage=(--archive zip --dtype float32) ;;
        fbank_ark) storage=(--archive ark --dtype float32) ;;
        ssl) storage=(--archive zip --dtype float16) ;;
    esac
    file=$(frontend_file)
    if [ -n "$file" ]; then frontend=(--frontend_config "$file"); fi
    if [ -n "$frontend_model" ]; then frontend+=(--frontend_model "$frontend_model"); fi
    step dump_features "$1.features" "$feats/$1" "$dumpdir/$1" "$train_config" \
        ${file:+"$file"} -- \
        "$dumpdir/$1" "$feats/$1" --config "$train_config" "${storage[@]}" \
        ${frontend[@]+"${frontend[@]}"} -- --nj "$nj" --ngpu $((ngpu > 0))
}

stage_tokens() {
    local size=() texts=("$dumpdir/$perturbed_set/$target_text")
    # One token list for both texts.
    [ -z "$source_text" ] || texts+=("$dumpdir/$perturbed_set/$source_text")
    case $token_type in
        bpe | unigram) size=(--vocab_size "$nbpe") ;;
        hf) size=(--hf_tokenizer "$hf_tokenizer") ;;
    esac
    step tokenise "${token_dir##*/}" "$token_dir" "${texts[@]}" -- \
        --text "${texts[@]}" --output_dir "$token_dir" \
        --token_type "$token_type" ${size[@]+"${size[@]}"}
}
