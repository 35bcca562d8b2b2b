# shellcheck shell=bash disable=SC2154 # pipeline.sh sets the variables used here
# Sourced by pipeline.sh: the stages from decoding to tables, packed models and the hub.

# for_each_decoding FUNCTION: call it with the label, model folder, decode config, test set
# and output folder of each decoding.
for_each_decoding() {
    local name config set folder
    for name in "${attentions[@]}"; do
        folder=$(model_of "$name")
        for config in "${decoders[@]}"; do
            for set in "${tests[@]}"; do
                "$1" "$(name_of "$name").$(name_of "$config").$set" "$folder" "$config" \
                    "$set" "$folder/decode_$(name_of "$config")/$set"
            done
        done
    done
}

# for_each_model FUNCTION: call it with the name of the attention type, the model folder
# and the folder of the packed model.
for_each_model() {
    local name folder
    for name in "${attentions[@]}"; do
        folder=$(model_of "$name")
        "$1" "$(name_of "$name")" "$folder" "$packed/$(basename "$folder")"
    done
}

stage_decode() { for_each_decoding decode_one; }

decode_one() {
    local options inputs
    mapfile -t options < <(fusion_options "$3")
    mapfile -t inputs < <(fusion_inputs "$3")
    step inference "$1" "$5" "$2/model.pth" "$3" "$feats/$4" \
        ${inputs[@]+"${inputs[@]}"} -- \
        --model_dir "$2" --data "$feats/$4" --output_dir "$5" --config "$3" \
        ${options[@]+"${options[@]}"} -- --ngpu $((ngpu > 0))
}

stage_score() {
    score_baselines
    for_each_decoding score_one
}

score_one() {
    local metric
    for metric in $metrics; do
        step --quiet score "$1.$metric" "$5/score_$metric" "$dumpdir/$4/$target_text" \
            "$5/1best_recog/text" -- "$metric" --ref "$dumpdir/$4/$target_text" \
            --hyp "$5/1best_recog/text" --output_dir "$5/score_$metric"
    done
}

score_baselines() { # systems without training, which show what a score is worth
    local name set folder
    for name in $baselines; do
        for set in "${tests[@]}"; do
            folder=$expdir/baseline_$name/$set
            # shellcheck disable=SC2086 # several options in one variable
            step --quiet baseline "$name.$set" "$folder" \
                "$dumpdir/$perturbed_set/$target_text" "$dumpdir/$set" -- \
                "$name" --train "$dumpdir/$perturbed_set" \
                --data "$dumpdir/$set" --target_text "$target_text" \
                --source_text "$source_text" --output_dir "$folder" $baseline_opts
            score_one "$name.$set" "" "" "$set" "$folder"
        done
    done
}

print_results() { printf '%s\n' "$5/efficiency.json" "$(score_of "$5")"; }

stage_pack() {
    local name set models=() names=() results=() options=()
    for name in "${attentions[@]}"; do models+=("$(model_of "$name")"); done
    for name in "${decoders[@]}"; do names+=("$(name_of "$name")"); done
    mapfile -t results < <(
        for name in $baselines; do
            for set in "${tests[@]}"; do score_of "$expdir/baseline_$name/$set"; done
        done
        for_each_decoding print_results
    )
    if [ -n "$baselines" ]; then
        options+=(--baselines)
        for name in $baselines; do options+=("$expdir/baseline_$name"); done
    fi
    if [ -n "$readme" ]; then options+=(--readme "$readme"); fi
    step --quiet results results "$packed" "${results[@]}" -- --exp "${models[@]}" \
        --decodes "${names[@]}" --sets "${tests[@]}" --metric "${metrics%% *}" \
        --output "$packed/RESULTS.md" ${options[@]+"${options[@]}"}
    for_each_model pack_one
    $dry_run || gather_configs
}

pack_one() { # the model's card shows its own scores alone
    local own_results options inputs
    mapfile -t options < <(fusion_options "${decoders[0]}")
    mapfile -t inputs < <(fusion_inputs "${decoders[0]}")
    mapfile -t own_results < <(for_each_decoding print_results | grep -F "$2/")
    step --quiet pack "$1" "$3" "$2/model.pth" "${decoders[0]}" "${own_results[@]}" \
        ${inputs[@]+"${inputs[@]}"} -- \
        --model_dir "$2" --output_dir "$3" --config "${decoders[0]}" \
        ${options[@]+"${options[@]}"} \
        --name "${hub_name:-$(basename "$2")}${hub_name:+-$1}"
}

gather_configs() { # copy the configs and the token list, not the weights, beside the table
    local name
    mkdir -p "$packed/conf/attention"
    copy_config "$train_config"
    [ -z "$encoder_config" ] || copy_config "$encoder_config"
    # shellcheck disable=SC2046 # prints nothing, or one path
    cp $(frontend_file) "${decoders[@]}" "$packed/conf"
    for name in "${attentions[@]}"; do
        cp "$(attention_file "$name")" "$packed/conf/attention"
        cp "$(model_of "$name")/config.yaml" "$packed/$(basename "$(model_of "$name")").yaml"
    done
    cp -r "$token_dir" "$packed"
    cp "$packed"/RESULTS.* .
    say
    grep -E '^(#|\|)' RESULTS.md
    say
    say "$PWD/RESULTS.md has all results; $packed has the configs too"
}

copy_config() { # copy_config FILE: a file with a base is written as one, joined with it
    if [ "$(with_bases "$1" | wc -l)" -eq 1 ]; then
        cp "$1" "$packed/conf"
        return
    fi
    python3 -c 'import sys, yaml
from espnet_mtla.settings.yaml_files import load_config
print(yaml.safe_dump(load_config(sys.argv[1]), sort_keys=False), end="")' "$1" \
        >"$packed/conf/$(basename "$1")"
}

stage_upload() {
    [ -n "$hub_name" ] || die "stage upload needs --hub_name owner/name"
    for_each_model upload_one
}

upload_one() { step upload "$1" "$3" "$3/model.safetensors" "$3/README.md" -- "$3" "$hub_name-$1"; }
