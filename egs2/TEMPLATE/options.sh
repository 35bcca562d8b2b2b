# shellcheck shell=bash disable=SC2034,SC2154 # pipeline.sh sets and uses the same names
# Sourced by pipeline.sh: parses the command line and selects the stages to run.

say() { echo "$*"; }
die() {
    echo "error: $*" >&2
    exit 1
}

# ---------------------------------------------------------------- options
# One line `name=value # help` in pipeline.sh declares an option: its default, its help
# text and its place on the command line. An option whose default is true or false is a
# boolean. A recipe declares its own with `--option "name=value # help"`, before it uses
# them. run.sh writes `--` before "$@" to separate its own options from the user's.

mapfile -t option_lines < \
    <(sed -n '/^# options/,/^# end of options/{/^[a-z_]*=/p}' "$PIPELINE")
option_names=("${option_lines[@]%%=*}")
recipe_options=()   # names of the options that the recipe declares
declare -A typed=() # option -> the name it was typed with: its own, or ESPnet's
declare -A own_values=() # option -> its value in run.sh, before the user's options
option_notes=()     # what is said about the options before the first stage

has_word() { [[ " ${*:2} " == *" $1 "* ]]; } # has_word WORD LIST...

is_boolean() { # is_boolean NAME
    local line
    for line in "${option_lines[@]}"; do
        [[ ! $line =~ ^$1=(true|false)\ # ]] || return 0
    done
    return 1
}

closest() { # closest WORD CANDIDATE...: print the candidates most like WORD
    python3 -c 'import sys, difflib
print(" ".join(difflib.get_close_matches(sys.argv[1], sys.argv[2:], 3, 0.5)))' "$@"
}

parse_options() { # parse_options ARGUMENT...: set the variable of each option
    local argument name value refused=()
    keep_own_values
    while [ $# -gt 0 ]; do
        argument=$1
        shift
        case $argument in
            --) # the user may override the recipe by either name
                typed=()
                keep_own_values
                continue
                ;;
            -h) argument=--help ;;
            --*) ;;
            *) die "'$argument' is not an option (options are --NAME VALUE)" ;;
        esac
        name=${argument%%=*} name=${name#--} name=${name//-/_}
        is_option "$name" || [ -n "${ESPNET_REFUSED[$name]:-}" ] || die_unknown "$name"
        if [[ $argument == *=* ]]; then
            value=${argument#*=}
        elif is_boolean "$name"; then
            value=true # unless the next word is a value
            if [[ ${1:-} =~ ^(true|false)$ ]]; then value=$1 && shift; fi
        elif ! is_option "$name" && [[ ${1:---} =~ ^--[a-z_-]*(=|$) ]]; then
            value= # the next word is an option
        else
            [ $# -gt 0 ] || die "--$name needs a value"
            value=$1
            shift
        fi
        if is_option "$name"; then
            set_option "$name" "$value"
        elif [ "${ESPNET_NO_CHANGE[$name]:-}" = "$value" ]; then
            option_notes+=("--$name $value (ESPnet) changes nothing")
        else
            refused+=("--$name (ESPnet): ${ESPNET_REFUSED[$name]}")
        fi
    done
    [ ${#refused[@]} -eq 0 ] || { printf 'error: %s\n' "${refused[@]}" >&2 && exit 1; }
    expand_recipe_options
}

keep_own_values() {
    local name
    for name in "${option_names[@]}"; do own_values[$name]=${!name}; done
}

is_option() { has_word "$1" "${option_names[@]}" || [ -n "${ESPNET_ALIASES[$1]:-}" ]; }

die_unknown() { # die_unknown NAME: end with the closest names
    local like
    like=$(closest "$1" "${option_names[@]}" "${!ESPNET_ALIASES[@]}")
    die "unknown option --$1${like:+; did you mean --${like// / or --}?} (--help lists all)"
}

set_option() { # set_option NAME VALUE: NAME is an option or one of ESPnet's names for it
    local name=$1 value=$2
    has_word "$1" "${option_names[@]}" || name=${ESPNET_ALIASES[$1]}
    [ "${typed[$name]:-$1}" = "$1" ] || die "--${typed[$name]} and --$1 are the same" \
        "option: use one of them (in run.sh, -- before \"\$@\" lets users override it)"
    if [ "$name" != "$1" ] && [ -z "${typed[$name]:-}" ]; then
        option_notes+=("--$1 (ESPnet) sets --$name")
    fi
    typed[$name]=$1
    if is_boolean "$name"; then
        [[ $value =~ ^(true|false)$ ]] || die "--$1: '$value' is not true or false"
    fi
    printf -v "$name" '%s' "$value"
    [ "$name" != option ] || declare_option "$value"
}

declare_option() { # declare_option LINE: an option of the recipe
    local name=${1%%=*} value=${1#*=}
    [[ $1 =~ ^[a-z_]+=[^#]*\ #\  ]] || die "--option '$1' is not 'name=value # help'"
    unset 'typed[option]' # a recipe may declare several
    option_lines+=("$1") option_names+=("$name") recipe_options+=("$name")
    printf -v "$name" '%s' "${value%% # *}"
}

# Options of a run that has the same results with any value.
SAME_RESULTS=(stage stop_stage skip_stages dry_run force help nj ngpu threads train_jobs job
    slurm_opts audio_format hub_name expdir dumpdir)

protect_readme() { # a run with other settings than the recipe's leaves its README as it is
    local name others=()
    if [ -z "$readme" ] || [ -n "${typed[readme]:-}" ]; then return; fi
    for name in "${!typed[@]}"; do
        has_word "$name" "${SAME_RESULTS[@]}" || others+=("--${typed[$name]}")
    done
    if [ ${#others[@]} -gt 0 ]; then
        option_notes+=("$readme keeps its results: ${others[*]} may change them" \
            "(--readme $readme replaces them)")
        readme=""
    fi
}

# A recipe's own option may be a list of words, such as "cs nl": then a word with {NAME}
# becomes one word per item, so that test_{languages} is test_cs test_nl.
expand_recipe_options() { # replace {NAME} in every option by that recipe option's value
    local name own
    for name in "${option_names[@]}"; do
        for own in ${recipe_options[@]+"${recipe_options[@]}"}; do
            if [[ ${!name} == *"{$own}"* ]]; then
                printf -v "$name" '%s' "$(insert_values "$own" "${!name}")"
            fi
        done
    done
}

insert_values() { # insert_values OWN TEXT: print TEXT with the values of the option OWN
    local own="{$1}" values=${!1} word item words=()
    if [[ $values != *" "* ]]; then
        echo "${2//"$own"/$values}"
        return
    fi
    for word in $2; do
        if [[ $word != *"$own"* ]]; then words+=("$word") && continue; fi
        for item in $values; do words+=("${word//"$own"/$item}"); done
    done
    echo "${words[*]}"
}

recipe_arguments() { # print the recipe's options for local/data.sh, a word a line
    local name
    for name in ${recipe_options[@]+"${recipe_options[@]}"}; do
        # shellcheck disable=SC2086 # a list is several words
        printf '%s\n' "--$name" ${!name}
    done
}

recipe_values() { # print the prefix for names of models and token lists: "VALUE_..."
    local name
    for name in ${recipe_options[@]+"${recipe_options[@]}"}; do
        printf '%s_' "${!name// /_}"
    done
}

print_help() {
    local line name number=0
    cat <<'END'
Usage: ./run.sh [--NAME VALUE ...]

Runs the stages from --stage to --stop_stage. Finished steps are skipped; interrupted
ones resume. Paths are relative to the recipe's folder.

Stages:
END
    for line in "${STAGES[@]}"; do
        number=$((number + 1))
        printf '  %2d  %-14s %s\n' "$number" "${line%%:*}" "${line#*: }"
    done
    printf '\nOptions and their values in this recipe:\n'
    for line in "${option_lines[@]}"; do
        name=${line%%=*}
        printf '  --%s "%s"\n        %s\n' "$name" "${!name}" "${line#*# }"
    done
    printf '\nESPnet names accepted for these options:\n'
    for name in "${!ESPNET_ALIASES[@]}"; do
        printf '  --%-22s sets --%s\n' "$name" "${ESPNET_ALIASES[$name]}"
    done | sort
}

# ---------------------------------------------------------------- stages
# STAGES in pipeline.sh is the only list: the position of a line is the stage's number.

stage_number() { # stage_number STAGE: print the number of a stage, given number or name
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

title_of() { echo "stage $(stage_number "$1") ($1)"; } # title_of NAME

run_stages() { # call stage_NAME for each selected stage
    local first last skip="" word number=0 line begun
    first=$(stage_number "$stage")
    last=$(stage_number "$stop_stage")
    for word in ${skip_stages//,/ }; do skip+=" $(stage_number "$word")"; done
    [ "$first" -le "$last" ] ||
        die "--stage $stage comes after --stop_stage $stop_stage: no stage to run"
    for line in "${STAGES[@]}"; do
        number=$((number + 1))
        if [ "$number" -lt "$first" ] || [ "$number" -gt "$last" ]; then continue; fi
        stage_name=${line%%:*} stage_index=$number
        say "== stage $number $stage_name == $(date '+%F %T')"
        # shellcheck disable=SC2086 # a list of numbers
        if has_word "$number" $skip; then
            say "   skipped (--skip_stages)"
            continue
        fi
        begun=$SECONDS
        "stage_$stage_name"
        $dry_run || say "   $stage_name: $((SECONDS - begun)) s"
    done
}
