# shellcheck shell=bash disable=SC2154 # the options are set by pipeline.sh
# Sourced by pipeline.sh: the file that a name refers to, and the stage that makes it.

name_of() { basename "$1" .yaml; }                     # name_of FILE
model_of() { echo "$expdir/${task}_${tag}_$(name_of "$1")"; } # model_of ATTENTION
score_of() { echo "$1/score_${metrics%% *}/score.json"; } # score_of FOLDER: first metric's

# changes_of OPTION...: print "_VALUE" for each option whose value is not the recipe's own,
# so that a model that the user trains otherwise has a folder of its own.
changes_of() {
    local name value
    for name; do
        value=$(value_in_name "$name" "${!name}")
        [ "$value" = "$(value_in_name "$name" "${own_values[$name]:-}")" ] ||
            printf '_%s' "$value"
    done
}

value_in_name() { # value_in_name OPTION VALUE: print the value as a part of a file name
    local words
    case $1 in
        *_config) words=${2:-no_${1%_config}} words=$(name_of "$words") ;;
        train_opts | lm_args)
            # shellcheck disable=SC2086 # several options in one variable
            words=$(printf '%s\n' ${2:-} | without_free loose | tr '\n' _)
            words=${words//--/}
            ;;
        *) words=$(name_of "${2%/}") ;;
    esac
    words=$(sed -E 's/[^[:alnum:].-]+/_/g; s/^_+|_+$//g' <<<"$words")
    # Names of files have at most 255 bytes.
    [ ${#words} -le 80 ] || words=${words:0:64}_$(sha256sum <<<"$words" | cut -c1-8)
    echo "$words"
}

only_scored() { # only_scored SET: whether no model is trained or chosen with this test set
    [[ " $test_sets " == *" $1 "* && $1 != "$valid_set" && $1 != "$train_set" ]]
}

maker_of() { # maker_of INPUT: print which stage makes a missing input
    case $1 in
        local | conf/* | *.yaml) echo "check the name" ;;
        data/token_list/*) made_by tokens ;;
        data/*_sp) made_by speed_perturb ;;
        data/*) echo "$(made_by data), or bring your own wav.scp and text" ;;
        "$dumpdir"/*/"$target_text" | "$dumpdir"/*/"$source_text")
            [ -d "${1%/*}" ] || { made_by filter && return; }
            echo "--target_text and --source_text name tables; $(tables_of "${1%/*}")"
            ;;
        "$dumpdir"/org/*) made_by format ;;
        "$dumpdir"/*) made_by filter ;;
        "$stats"/* | "$lm_stats"/*) made_by stats ;;
        "$encoder"/*) made_by encoder ;;
        */.done.train) made_by train ;;
        */model.safetensors | */packed_*/README.md) made_by pack ;;
        */model.pth) made_by average ;;
        *) echo "$(title_of decode) and $(title_of score) make it" ;;
    esac
}

made_by() { echo "$(title_of "$1") makes it"; } # made_by STAGE

tables_of() { # tables_of FOLDER: print the names of its texts
    local file names=()
    for file in "$1"/text "$1"/text.*; do
        [[ ! -f $file || $file == *~ ]] || names+=("${file##*/}")
    done
    echo "$1 has ${names[*]:-no text}"
}

with_bases() { # with_bases FILE: print a YAML file and those that its `base` keys name
    local file=$1 base files=()
    while [ -f "$file" ] && ! has_word "$file" "${files[@]-}"; do
        echo "$file"
        files+=("$file")
        base=$(sed -nE "s/^base:[[:space:]]*[\"']?([^\"'#]*[^\"'#[:space:]]).*/\1/p" "$file")
        [ -n "$base" ] || return 0
        file=$(realpath -m "$(dirname "$file")/$base") # one spelling, to notice a loop
    done
}

# setting FILE KEY: print the value of a top-level key of a YAML file, or of its base.
setting() {
    local file line
    while IFS= read -r file; do
        line=$(grep -E "^$2:" "$file") || continue
        sed -E "s/^$2:[[:space:]]*//; s/[[:space:]]+#.*//; s/^([\"'])(.*)\\1[[:space:]]*\$/\\2/" \
            <<<"$line"
        return
    done < <(with_bases "$1")
}

fragment_file() { # fragment_file OPTION FOLDER NAME: print the YAML file called NAME
    local file
    for file in "$3" "conf/$2/$3.yaml" "$ROOT/conf/$2/$3.yaml"; do
        if [ -f "$file" ]; then echo "$file" && return; fi
    done
    die "--$1: there is no '$3' in conf/$2, which has:" \
        "$(cd "$ROOT/conf/$2" && printf '%s ' *.yaml | sed 's/\.yaml//g')"
}

attention_file() { fragment_file attention attention "$1"; } # attention_file NAME

frontend_file() { # prints nothing without --frontend_config
    [ -z "$frontend_config" ] || fragment_file frontend_config frontend "$frontend_config"
}
