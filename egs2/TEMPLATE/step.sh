# shellcheck shell=bash disable=SC2154 # the options are set by pipeline.sh
# Sourced by pipeline.sh: `step` runs one command, unless its result is already there.

# State of this shell, shared by the functions below.
watcher=""      # process that shows the progress of the running command
children=()     # processes started by `beside`
failed=false    # whether one of them has failed
outdated=()     # dry run: folders that the planned steps would write again

# Settings that a resumed command may change: they set how long it runs, not its result.
FREE='max_epoch|patience|num_workers|log_interval|log_level'

# step [--quiet] [--resumable] NAME LABEL FOLDER INPUT... -- ARGUMENT... [-- VOLATILE...]
# Run one command that writes FOLDER. NAME is a command of espnet_mtla.bin, or the path of
# a script; LABEL names this use of it within the stage. The step is skipped if FOLDER has
# the mark of the same command over the same inputs. VOLATILE are arguments that change
# the speed alone: they do not enter the mark. --quiet: output goes to the log alone;
# --resumable: an interrupted command resumes from the content of FOLDER.
step() {
    local quiet=false resumable=false name label folder mark key loose=""
    local inputs=() command=() volatile=()
    while [[ $1 == --* ]]; do
        case $1 in --quiet) quiet=true ;; --resumable) resumable=true ;; esac
        shift
    done
    name=${1##*/} label=$2 folder=$3
    name=${name%.*} mark=$folder/.done.$name
    case $1 in */*) command=("$1") ;; *) command=(python3 -m "espnet_mtla.bin.$1") ;; esac
    shift 3
    while [ "$1" != -- ]; do inputs+=("$1") && shift; done
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do command+=("$1") && shift; done
    volatile=("${@:2}")

    $dry_run || check_inputs "${inputs[@]}"
    key=$(fingerprint "${inputs[@]}" -- "${command[@]}")
    if $dry_run; then
        plan_step "$label" "$folder" "$(is_done "$mark" "$key" || echo stale)" \
            "${inputs[@]}" -- "${command[@]}" "${volatile[@]}"
        return
    fi
    if is_done "$mark" "$key"; then
        say "   $label: already done"
        return
    fi
    require_writable "$(dirname "$folder")" "$(dirname "$(log_of "$label" "$folder")")"
    take_lock "$label" "$folder"
    if is_done "$mark" "$key"; then
        say "   $label: done by another run"
    else
        if $resumable; then
            loose=$(fingerprint --loose "${inputs[@]}" -- "${command[@]}")
            start_or_resume "$label" "$folder" "$folder/.begun.$name" "$loose"
        fi
        rm -f "$mark" # the command is about to change what the mark vouches for
        run_command "$label" "$(log_of "$label" "$folder")" "$quiet" \
            "${command[@]}" "${volatile[@]}"
        printf '%s\nfinished %s\n' "$key" "$(date '+%F %T.%N')" >"$folder/.done.new"
        mv "$folder/.done.new" "$mark"
    fi
    exec 9>&- # release the lock
}

is_done() { ! $force && [ "$(head -n 1 "$1" 2>/dev/null)" = "$2" ]; } # is_done MARK KEY

plan_step() { # plan_step LABEL FOLDER STALE INPUT... -- COMMAND...: print "done" or "to do"
    local label=$1 folder=$2 stale=$3 old
    shift 3
    while [ "$1" != -- ]; do
        for old in ${outdated[@]+"${outdated[@]}"}; do
            case $1/ in "$old"/*) stale=stale ;; esac
        done
        shift
    done
    shift
    [ -z "$stale" ] || outdated+=("$folder")
    say "   [$([ -z "$stale" ] && echo "done " || echo "to do")] $label: $(as_typed "$@")"
}

beside() { # beside COMMAND...: in the background, at most $train_jobs at a time
    if $dry_run || [ "$train_jobs" -eq 1 ]; then
        "$@"
        return
    fi
    while [ "$(jobs -pr | wc -l)" -ge "$train_jobs" ]; do wait -n || failed=true; done
    as_child "$@" &
    children+=($!)
}

as_child() { # as_child COMMAND...: when ended by a signal, end what it has started too
    trap interrupted INT TERM HUP
    children=()
    "$@"
}

wait_for_children() { # the others finish before a failure ends the stage
    local child
    for child in ${children[@]+"${children[@]}"}; do wait "$child" || failed=true; done
    children=()
    ! $failed || exit 1
}

as_typed() { printf '%q ' "$@" | sed 's/ $//'; } # as_typed COMMAND...: quoted for a shell

check_inputs() { # check_inputs INPUT...
    local input
    for input; do
        [ -e "$input" ] || die "stage $stage_index ($stage_name) needs $input, which is" \
            "missing: $(maker_of "$input")"
    done
}

# ---------------------------------------------------------------- what identifies a step

fingerprint() { # fingerprint [--loose] INPUT... -- COMMAND...: print a hash of them all
    local loose="" input file inputs=()
    if [ "$1" = --loose ]; then loose=loose && shift; fi
    while [ "$1" != -- ]; do inputs+=("$1") && shift; done
    shift
    {
        printf '%s\n' "$@" | without_free "$loose"
        for input in ${inputs[@]+"${inputs[@]}"}; do
            # Hidden files in a folder are marks like ours, not inputs.
            find -L "$input" -maxdepth 1 -type f '(' -path "$input" -o ! -name '.*' ')' \
                -print0 2>/dev/null | sort -z | while IFS= read -r -d '' file; do
                digest "$file" "$loose"
            done || true # a dry run may name inputs that do not exist yet
        done
    } | sha256sum | cut -c1-24
}

without_free() { # without_free LOOSE: if not empty, drop options of $FREE and their values
    awk -v free="^--($FREE)" -v loose="$1" \
        'loose && $0 ~ free "$" {getline; next} loose && $0 ~ free "=" {next} {print}'
}

# digest FILE LOOSE: a small file by its content (YAML with its bases, without comments,
# and if LOOSE is not empty without the keys of $FREE), a big one by its size and time.
digest() {
    local file
    echo "${1##*/}"
    if [ "$(stat -L -c %s "$1")" -gt 33554432 ]; then
        stat -L -c '%s %Y' "$1"
    elif [ "${1##*.}" = yaml ]; then
        with_bases "$1" | while IFS= read -r file; do
            grep -vE "^[[:space:]]*(#|\$)${2:+|^($FREE):}" "$file" | sha256sum
        done
    else
        sha256sum <"$1"
    fi
}

require_writable() { # require_writable FOLDER...: end with the reason if one is not
    local folder reason
    for folder; do
        reason=$({ mkdir -p "$folder" && : >>"$folder/.write"; } 2>&1) ||
            die "$folder: cannot be written (${reason##*: })"
        rm -f "$folder/.write"
    done
}

take_lock() { # take_lock LABEL FOLDER: runs side by side share the early stages
    mkdir -p "$(dirname "$2")"
    exec 9>"$(dirname "$2")/.lock.$(basename "$2")"
    flock --nonblock 9 && return
    say "   $1: another run is making $2; waiting for it"
    flock 9
}

# start_or_resume LABEL FOLDER MARK KEY: the mark holds the key of the interrupted command.
# Results of other settings are moved aside: no command resumes from them.
start_or_resume() {
    local old aside
    old=$(cat "$3" 2>/dev/null || true)
    # The command itself has this lock: where it was queued, it can outlive its pipeline.
    if [ -e "$2/.lock" ] && ! flock --timeout 10 "$2/.lock" true; then
        die "$2: another run is writing here ($(cat "$2/.lock")); wait for it, or end it"
    fi
    if [ -n "$old" ] && { $force || [ "$old" != "$4" ]; }; then
        aside=$2.before_$(date +%Y%m%d_%H%M%S)
        mv "$2" "$aside"
        say "   $1: other settings or data, or --force: moved $2"
        say "   $1: to $aside; starting again"
    elif [ -n "$old" ]; then
        say "   $1: resuming from $2"
    fi
    mkdir -p "$2"
    echo "$4" >"$3"
}

# ---------------------------------------------------------------- running, as users see it

log_of() { # log_of LABEL FOLDER: print the log's path; logs are beside what a step makes
    local folder=data/logs
    case $2/ in "$expdir"/*) folder=$expdir/logs ;; esac
    echo "$folder/${stage_index}_$stage_name.$1.log"
}

run_command() { # run_command LABEL LOG QUIET COMMAND...: end the pipeline if it fails
    local label=$1 log=$2 quiet=$3 code=0 begun=$SECONDS first_line
    shift 3
    say "   $label: log in $log"
    printf '# %s\n# %s\n' "$(date '+%F %T')" "$(as_typed "$@")" >>"$log"
    first_line=$(($(wc -l <"$log") + 1))
    show_progress "$log" &
    watcher=$!
    dispatch "$log" "$quiet" "$@" || code=$?
    end_watcher
    [ "$code" -eq 0 ] || report_failure "$code" "$log" "$first_line" "$@"
    say "   $label: done in $((SECONDS - begun)) s"
}

clear_line="" # on a terminal: erases the progress line before other output
[ ! -t 1 ] || clear_line=$'\r\033[K'

show_and_log() { # show_and_log LOG QUIET: copy standard input to the log and the screen
    local line
    while IFS= read -r line || [ -n "$line" ]; do
        $2 || printf '%s     %s\n' "$clear_line" "$line"
        printf '%s\n' "$line" >>"$1"
    done
}

show_progress() { # show_progress LOG: print its last line every 20 s, on a terminal every 1
    local line last="" pause=20 never
    [ -z "$clear_line" ] || pause=1
    # Reading from a pipe without a writer sleeps, and ends with this shell: a sleep
    # command would outlive it.
    exec {never}<> <(:)
    while ! read -rt $pause -u "$never" && kill -0 $$ 2>/dev/null; do
        line=$(tail -c 2000 "$1" | tr '\r' '\n' | grep -v '^ *$' | tail -n 1 | cut -c1-110)
        [ "$line" != "$last" ] || continue
        last=$line
        if [ -n "$clear_line" ]; then
            printf '%s     ... %s' "$clear_line" "$line"
        else
            printf '     ... %s\n' "$line"
        fi
    done
}

end_watcher() {
    [ -n "$watcher" ] || return 0
    kill "$watcher" 2>/dev/null || true
    wait "$watcher" 2>/dev/null || true
    watcher=""
}

report_failure() { # report_failure CODE LOG FIRST_LINE COMMAND...: say so and exit
    {
        printf '%serror: stage %s (%s) failed with exit code %s\n' \
            "$clear_line" "$stage_index" "$stage_name" "$1"
        printf '  command: %s\n' "$(as_typed "${@:4}")"
        printf '  log: %s, which ends:\n' "$2"
        tail -n "+$3" "$2" | tail -n 20 | sed 's/^/    /'
        # On a full disk the command's own message may be missing from the log.
        if ! head -c 65536 /dev/zero >"$2.probe" 2>/dev/null; then
            printf 'error: %s: no space left on the device; free some and run again\n' "$2"
        fi
        rm -f "$2.probe"
    } >&2
    exit 1
}

interrupted() { # the handler of ctrl-C, of SIGTERM and of a terminal that is closed
    trap '' INT TERM HUP
    stop_job
    [ ${#children[@]} -eq 0 ] || kill -TERM "${children[@]}" 2>/dev/null || true
    end_watcher # or the wait below would never end
    wait
    printf '%sinterrupted in stage %s (%s): run the same command again to resume\n' \
        "$clear_line" "${stage_index:-0}" "${stage_name:-start}" >&2
    exit 130
}
