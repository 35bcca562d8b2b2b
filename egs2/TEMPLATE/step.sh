# shellcheck shell=bash disable=SC2154 # the options are set by pipeline.sh
# Sourced by pipeline.sh: `step` runs one command, unless its result is already there.

volatile=()     # arguments of the next step that change its speed alone, not its result
quiet=false     # whether what the next command prints goes to its log alone
resumable=false # whether the next step's command goes on from what stands in its folder
watcher=""      # process that shows the progress of the command that runs now
children=()     # processes that `beside` has started
failed=false    # whether one of them has failed
outdated=()     # in a dry run: what the steps so far would make anew

# Settings that a resumed command may change: they say how long, not what, it computes.
FREE='max_epoch|patience|num_workers|log_interval|log_level'

# step NAME LABEL FOLDER INPUT... -- ARGUMENT...
# One command with one result. NAME is a command of espnet_mtla.bin, or a script with a
# slash in it; LABEL tells this use of it from others in the same stage; FOLDER is what
# it writes. Skipped when FOLDER holds the mark of the same command over the same inputs.
step() {
    local name=${1##*/} label=$2 out=$3 inputs=() command key mark
    name=${name%.*}
    case $1 in */*) command=("$1") ;; *) command=(python3 -m "espnet_mtla.bin.$1") ;; esac
    shift 3
    while [ "$1" != -- ]; do
        inputs+=("$1")
        shift
    done
    shift
    command+=("$@")
    mark=$out/.done.$name
    if $dry_run; then
        plan_step
    else
        check_inputs
        key=$(fingerprint)
        if is_done; then
            say "   $label: already done"
        else
            take_lock
            if is_done; then say "   $label: done by another run"; else run_step; fi
            exec 9>&- # lets go of the lock
        fi
    fi
    volatile=() resumable=false quiet=false
}

is_done() { ! $force && [ "$(head -n 1 "$mark" 2>/dev/null)" = "$key" ]; }

plan_step() {
    local old new word="done "
    key=$(fingerprint)
    is_done || word="to do"
    for old in ${outdated[@]+"${outdated[@]}"}; do
        for new in "${inputs[@]}"; do
            case $new/ in "$old"/*) word="to do" ;; esac
        done
    done
    [ "$word" = "done " ] || outdated+=("$out")
    say "   [$word] $label: $(as_typed)"
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

as_child() { # a shell of its own, which ends what it has started when it is ended
    trap interrupted INT TERM
    children=()
    "$@"
}

join_them() { # waits for all that run beside; the others finish before a failure counts
    local child
    for child in ${children[@]+"${children[@]}"}; do wait "$child" || failed=true; done
    children=()
    ! $failed || exit 1
}

as_typed() { # the command as one could type it
    printf '%q ' "${command[@]}" ${volatile[@]+"${volatile[@]}"} | sed 's/ $//'
}

check_inputs() {
    local input
    for input in "${inputs[@]}"; do
        [ -e "$input" ] || die "stage $stage_index ($stage_name) needs $input, which is" \
            "not there: $(maker_of "$input")"
    done
}

fingerprint() { # fingerprint [loose]: one word for the command and what its inputs hold
    local input file
    {
        printf '%s\n' "${command[@]}" | without_free "$@"
        for input in "${inputs[@]}"; do
            # Hidden files in a folder are marks like ours, no input.
            find -L "$input" -maxdepth 1 -type f '(' -path "$input" -o ! -name '.*' ')' \
                -print0 2>/dev/null | sort -z | while IFS= read -r -d '' file; do
                digest "$file" "$@"
            done || true # a dry run may look at what is still to be made
        done
    } | sha256sum | cut -c1-24
}

without_free() { # when called with loose, drops options of $FREE and their values
    awk -v free="^--($FREE)\$" -v loose="${1:-}" \
        'loose && $0 ~ free {getline; next} {print}'
}

digest() { # small files by content, big ones by size and time, YAML without its comments
    echo "${1##*/}"
    if [ "$(stat -L -c %s "$1")" -gt 33554432 ]; then
        stat -L -c '%s %Y' "$1"
    elif [ "${1##*.}" = yaml ]; then
        grep -vE "^[[:space:]]*(#|\$)${2:+|^($FREE):}" "$1" | sha256sum
    else
        sha256sum <"$1"
    fi
}

take_lock() { # two runs side by side, say on two GPUs, share the early stages
    mkdir -p "$(dirname "$out")"
    exec 9>"$(dirname "$out")/.lock.$(basename "$out")"
    flock --nonblock 9 && return
    say "   $label: another run is making $out; waiting for it"
    flock 9
}

run_step() {
    local log=$expdir/logs code=0 begun=$SECONDS before
    [ "$stage_index" -gt 5 ] || log=data/logs
    mkdir -p "$log"
    log=$log/${stage_index}_$stage_name.$label.log
    if $resumable; then begin_or_resume; fi
    rm -f "$mark" # from here on, what it stood for is no longer whole
    say "   $label: log in $log"
    printf '# %s\n# %s\n' "$(date '+%F %T')" "$(as_typed)" >>"$log"
    before=$(wc -l <"$log")
    show_progress "$log" &
    watcher=$!
    dispatch "$log" "${command[@]}" ${volatile[@]+"${volatile[@]}"} || code=$?
    end_watcher
    [ "$code" -eq 0 ] || report_failure
    printf '%s\nfinished %s\n' "$key" "$(date '+%F %T.%N')" >"$out/.done.new"
    mv "$out/.done.new" "$mark"
    say "   $label: done in $((SECONDS - begun)) s"
}

begin_or_resume() { # what was begun with other settings is put aside, never gone on from
    local begun=$out/.begun.$name old new aside
    new=$(fingerprint loose)
    old=$(cat "$begun" 2>/dev/null || true)
    if [ -n "$old" ] && { $force || [ "$old" != "$new" ]; }; then
        aside=$out.before_$(date +%Y%m%d_%H%M%S)
        mv "$out" "$aside"
        say "   $label: made with other settings or data, or --force is given: $out is"
        say "   $label: moved to $aside, and a new one is begun"
    elif [ -n "$old" ]; then
        say "   $label: going on from what $out holds"
    fi
    mkdir -p "$out"
    echo "$new" >"$begun"
}

# ---------------------------------------------------------------- what the user sees

clear_line="" # on a terminal: wipes the progress line before anything else is written
[ ! -t 1 ] || clear_line=$'\r\033[K'

show_and_log() { # standard input to the screen, indented, and to the end of file $1
    local line
    while IFS= read -r line || [ -n "$line" ]; do
        $quiet || printf '%s     %s\n' "$clear_line" "$line"
        printf '%s\n' "$line" >>"$1"
    done
}

show_progress() { # the log's last line: each second on a terminal, else now and then
    local line last="" pause=20 never
    [ -z "$clear_line" ] || pause=1
    exec {never}<> <(:) # a pipe that nothing comes from: a sleep that dies with its shell
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

report_failure() {
    {
        printf '%serror: stage %s (%s) failed with exit code %s\n' \
            "$clear_line" "$stage_index" "$stage_name" "$code"
        printf '  command: %s\n' "$(as_typed)"
        printf '  log: %s, which ends:\n' "$log"
        tail -n "+$((before + 1))" "$log" | tail -n 20 | sed 's/^/    /'
        # The command's own words may be what did not fit.
        if ! head -c 65536 /dev/zero >"$log.probe" 2>/dev/null; then
            printf 'error: %s: no space left on the device; free some and run again\n' "$log"
        fi
        rm -f "$log.probe"
    } >&2
    exit 1
}

interrupted() {
    trap '' INT TERM
    stop_job
    [ ${#children[@]} -eq 0 ] || kill -TERM "${children[@]}" 2>/dev/null || true
    end_watcher
    wait # for the children that have been told; the watcher would never end by itself
    printf '%sinterrupted in stage %s (%s): run the same again to go on\n' \
        "$clear_line" "${stage_index:-0}" "${stage_name:-start}" >&2
    exit 130
}
