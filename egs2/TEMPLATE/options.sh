# shellcheck shell=bash disable=SC2034,SC2154 # pipeline.sh sets and uses the same names
# Sourced by pipeline.sh: what may stand on the command line, and which stages it asks for.

say() { echo "$*"; }
die() {
    echo "error: $*" >&2
    exit 1
}

# ---------------------------------------------------------------- options
# An option is a line `name=value # help` between the marks in pipeline.sh: the default,
# the help and the list of what may stand on the command line are that one line. A recipe
# has more of them by `--option "name=value # help"`, which it gives before its others.

own=() # lines of the recipe's own options

option_lines() {
    sed -n '/^# options/,/^# end of options/{/^[a-z_]*=/p}' "$PIPELINE"
    [ ${#own[@]} -eq 0 ] || printf '%s\n' "${own[@]}"
}
option_names() { option_lines | cut -d= -f1; }

closest() { # closest WORD CANDIDATE...: the candidates most like WORD
    python3 -c 'import sys, difflib
print(" ".join(difflib.get_close_matches(sys.argv[1], sys.argv[2:], 3, 0.5)))' "$@"
}

parse_options() {
    local arg name value names
    mapfile -t names < <(option_names)
    while [ $# -gt 0 ]; do
        arg=$1
        shift
        [ "$arg" != -h ] || arg=--help
        case $arg in --*) ;; *) die "'$arg' is not an option (options are --NAME VALUE)" ;; esac
        name=${arg%%=*} name=${name#--} name=${name//-/_}
        [[ " ${names[*]} help " == *" $name "* ]] || unknown_option "$arg" "$name" "${names[@]}"
        case $arg in
            *=*) value=${arg#*=} ;;
            *)
                case $name in
                    help | dry_run | force | drop_bad | allow_unk)
                        value=true
                        if [[ ${1:-} =~ ^(true|false)$ ]]; then value=$1 && shift; fi
                        ;;
                    *)
                        [ $# -gt 0 ] || die "--$name needs a value"
                        value=$1
                        shift
                        ;;
                esac
                ;;
        esac
        case $name=$value in
            help=true | dry_run=true | force=true | drop_bad=true | allow_unk=true) ;;
            help=false | dry_run=false | force=false | drop_bad=false | allow_unk=false) ;;
            help=* | dry_run=* | force=* | drop_bad=* | allow_unk=*)
                die "--$name: '$value' is not true or false" ;;
        esac
        printf -v "$name" '%s' "$value"
        if [ "$name" = option ]; then
            add_option "$value"
            names+=("${value%%=*}")
        fi
    done
    fill_in
}

add_option() { # add_option LINE: the recipe's own
    local name=${1%%=*} value=${1#*=}
    [[ $1 =~ ^[a-z_]+=[^#]*\ #\  ]] || die "--option '$1' is not 'name=value # help'"
    own+=("$1")
    printf -v "$name" '%s' "${value%% # *}"
}

fill_in() { # {NAME} in any option is the value of the recipe's own option of that name
    local line name value mine
    while IFS= read -r line; do
        name=${line%%=*}
        value=${!name}
        for mine in ${own[@]+"${own[@]%%=*}"}; do value=${value//"{$mine}"/${!mine}}; done
        printf -v "$name" '%s' "$value"
    done < <(option_lines)
}

own_arguments() { # for local/data.sh, a word a line
    local name
    for name in ${own[@]+"${own[@]%%=*}"}; do printf '%s\n' "--$name" "${!name}"; done
}

own_values() { # what names of models and token lists begin with
    local name
    for name in ${own[@]+"${own[@]%%=*}"}; do printf '%s_' "${!name}"; done
}

unknown_option() { # unknown_option ARGUMENT NAME KNOWN...
    local like
    like=$(closest "${@:2}")
    die "unknown option ${1%%=*}${like:+; did you mean --${like// / or --}?} (--help lists all)"
}

print_help() {
    local line name text
    cat <<EOF
Usage: ./run.sh [--NAME VALUE ...]

Runs the stages from --stage to --stop_stage, each of them only as far as its result is
not already there. Paths are relative to the recipe's folder.

Stages:
EOF
    local number=0
    for line in "${STAGES[@]}"; do
        number=$((number + 1))
        printf '  %2d  %-14s %s\n' "$number" "${line%%:*}" "${line#*: }"
    done
    printf '\nOptions, with the values they have here:\n'
    while IFS= read -r line; do
        name=${line%%=*} text=${line#*# }
        printf '  --%s "%s"\n        %s\n' "$name" "${!name}" "$text"
    done < <(option_lines)
}

# ---------------------------------------------------------------- stages

stage_number() { # prints the number of a stage given by number or name
    local number=0 line names=()
    for line in "${STAGES[@]}"; do
        number=$((number + 1))
        names+=("${line%%:*}")
        if [ "$1" = "$number" ] || [ "${1//-/_}" = "${line%%:*}" ]; then
            echo "$number"
            return
        fi
    done
    die "there is no stage '$1': stages are 1 to $number, or ${names[*]}"
}

run_stages() { # calls stage_NAME for each stage that is asked for
    local first last skip="" word number=0 line begun
    first=$(stage_number "$stage")
    last=$(stage_number "$stop_stage")
    for word in ${skip_stages//,/ }; do skip+=" $(stage_number "$word") "; done
    [ "$first" -le "$last" ] ||
        die "--stage $stage comes after --stop_stage $stop_stage: nothing to do"
    for line in "${STAGES[@]}"; do
        number=$((number + 1))
        if [ "$number" -lt "$first" ] || [ "$number" -gt "$last" ]; then continue; fi
        stage_name=${line%%:*} stage_index=$number
        say "== stage $number $stage_name == $(date '+%F %T')"
        if [[ $skip == *" $number "* ]]; then
            say "   skipped (--skip_stages)"
            continue
        fi
        begun=$SECONDS
        "stage_$stage_name"
        $dry_run || say "   $stage_name: $((SECONDS - begun)) s"
    done
}
