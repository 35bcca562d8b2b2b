# shellcheck shell=bash disable=SC2154 # the options are set by pipeline.sh
# Sourced by pipeline.sh: which file a name stands for, and which stage makes it.

name_of() { basename "$1" .yaml; }
model_of() { echo "$expdir/${task}_${tag}_$(name_of "$1")"; }

only_scored() { # whether SET is a test set that no model is trained or chosen with
    [[ " $test_sets " == *" $1 "* && $1 != "$valid_set" && $1 != "$train_set" ]]
}

maker_of() { # who makes INPUT, for the message when it is missing
    case $1 in
        local | conf/* | *.yaml) echo "is the name right?" ;;
        data/token_list/*) echo "stage 5 (tokens) makes it" ;;
        data/*_sp) echo "stage 2 (speed_perturb) makes it" ;;
        data/*) echo "stage 1 (data) makes it, or bring your own wav.scp and text" ;;
        "$dumpdir"/*/"$target_text" | "$dumpdir"/*/"$source_text")
            [ -d "${1%/*}" ] || { echo "stage 4 (filter) makes it" && return; }
            echo "--target_text and --source_text name tables; $(tables_of "${1%/*}")"
            ;;
        "$dumpdir"/org/*) echo "stage 3 (format) makes it" ;;
        "$dumpdir"/*) echo "stage 4 (filter) makes it" ;;
        "$stats"/*) echo "stage 6 (stats) makes it" ;;
        "$encoder"/*) echo "stage 7 (encoder) makes it" ;;
        */.done.train) echo "stage 8 (train) makes it" ;;
        */model.safetensors | */packed_*/README.md) echo "stage 12 (pack) makes it" ;;
        */model.pth) echo "stage 9 (average) makes it" ;;
        *) echo "stages 10 (decode) and 11 (score) make it" ;;
    esac
}

tables_of() { # tables_of FOLDER: what its texts are called
    local file names=()
    for file in "$1"/text "$1"/text.*; do
        [[ ! -f $file || $file == *~ ]] || names+=("${file##*/}")
    done
    echo "$1 has ${names[*]:-no text}"
}

fragment_file() { # fragment_file OPTION KIND NAME: the YAML file that NAME stands for
    local file
    for file in "$3" "conf/$2/$3.yaml" "$ROOT/conf/$2/$3.yaml"; do
        if [ -f "$file" ]; then echo "$file" && return; fi
    done
    die "--$1: there is no '$3' in conf/$2, which has:" \
        "$(cd "$ROOT/conf/$2" && printf '%s ' *.yaml | sed 's/\.yaml//g')"
}

attention_file() { fragment_file attention attention "$1"; }

frontend_file() { # nothing without --frontend_config
    [ -z "$frontend_config" ] || fragment_file frontend_config frontend "$frontend_config"
}
