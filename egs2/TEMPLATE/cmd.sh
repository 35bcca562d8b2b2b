# shellcheck shell=bash disable=SC2154 # the options are set by pipeline.sh
# Sourced by pipeline.sh: where commands run (--job). `dispatch LOG QUIET COMMAND...` runs
# one, appends its output to LOG and returns its exit code. The standard output of a local
# command is shown on the screen too, unless QUIET is true; that of a queued one is in LOG
# alone. A site with another queue adds a case here.

job_name="" # of the queued command that runs now

dispatch() {
    case $job in
        local) run_here "$@" ;;
        slurm) run_on_slurm "$1" "${@:3}" ;;
    esac
}

run_here() { # run_here LOG QUIET COMMAND...
    local log=$1 quiet=$2 code=0 job_pid
    shift 2
    # A shell without job control makes background commands ignore ctrl-C: undo that.
    {
        trap - INT
        # shellcheck disable=SC2094 # both write, neither reads
        "$@" 2>>"$log" | show_and_log "$log" "$quiet"
        exit "${PIPESTATUS[0]}"
    } &
    job_pid=$!
    wait "$job_pid" || code=$?
    return "$code"
}

run_on_slurm() { # run_on_slurm LOG COMMAND...; --wait returns the job's own exit code
    local log=$1 code=0 job_pid gpus=()
    shift
    [ "$ngpu" -eq 0 ] || gpus=(--gres "gpu:$ngpu")
    job_name="espnet_mtla.$$.$stage_name"
    # A job that is queued again after its node has failed may find its first process still
    # at work: that is for --slurm_opts to ask for, whose options come last.
    # shellcheck disable=SC2086,SC2094 # several options in one variable
    sbatch --wait --quiet --no-requeue --job-name "$job_name" --open-mode append --output "$log" \
        --cpus-per-task "$nj" ${gpus[@]+"${gpus[@]}"} $slurm_opts \
        --wrap "cd ${PWD@Q} && exec ${*@Q}" </dev/null >>"$log" 2>&1 &
    job_pid=$!
    wait "$job_pid" || code=$?
    job_name=""
    return "$code"
}

stop_job() { # end what this shell has started, except children: they end their own
    local self=$BASHPID started child
    [ -z "$job_name" ] || scancel --name "$job_name" || true
    # The kernel's list, since the signal may come before $! is stored in a variable.
    read -ra started < <(cat "/proc/$self/task/"*/children 2>/dev/null) || true
    for child in ${started[@]+"${started[@]}"}; do
        [[ " ${children[*]-} " == *" $child "* ]] || end_tree "$child"
    done
}

end_tree() { # end_tree PID: end a process after those that it has started
    local child started
    read -ra started < <(cat "/proc/$1/task/"*/children 2>/dev/null) || true
    for child in ${started[@]+"${started[@]}"}; do end_tree "$child"; done
    kill -TERM "$1" 2>/dev/null || true
}
