# shellcheck shell=bash disable=SC2154 # the options are set by pipeline.sh
# Sourced. Where the commands of the stages run: `dispatch LOG COMMAND...` runs one, adds
# what it writes to LOG and returns its exit code. A local one's standard output is shown
# on ours as well; a job's stands in LOG alone. Chosen by --job; a site with another
# queue adds a case here.

job_name="" # of the queued command that runs now

dispatch() {
    local log=$1
    shift
    case $job in
        local) run_here "$log" "$@" ;;
        slurm) run_on_slurm "$log" "$@" ;;
    esac
}

run_here() {
    local log=$1 code=0 job_pid
    shift
    # A shell without job control starts background commands deaf to ctrl-C: undone.
    {
        trap - INT
        # shellcheck disable=SC2094 # both write, neither reads
        "$@" 2>>"$log" | show_and_log "$log"
        exit "${PIPESTATUS[0]}"
    } &
    job_pid=$!
    wait "$job_pid" || code=$?
    return "$code"
}

run_on_slurm() { # --wait makes sbatch return the job's own exit code
    local log=$1 code=0 job_pid gpus=()
    shift
    [ "$ngpu" -eq 0 ] || gpus=(--gres "gpu:$ngpu")
    job_name="espnet_mtla.$$.$stage_name"
    # shellcheck disable=SC2086,SC2094 # several options stand in one variable
    sbatch --wait --quiet --job-name "$job_name" --open-mode append --output "$log" \
        --cpus-per-task "$nj" ${gpus[@]+"${gpus[@]}"} $slurm_opts \
        --wrap "cd ${PWD@Q} && exec ${*@Q}" </dev/null >>"$log" 2>&1 &
    job_pid=$!
    wait "$job_pid" || code=$?
    job_name=""
    return "$code"
}

stop_job() { # ends what this shell has started, but the children that end their own
    local self=$BASHPID started child
    [ -z "$job_name" ] || scancel --name "$job_name" || true
    # Not what was noted when it was started: the signal may have come before the note.
    read -ra started < <(cat "/proc/$self/task/"*/children 2>/dev/null) || true
    for child in ${started[@]+"${started[@]}"}; do
        [[ " ${children[*]-} " == *" $child "* ]] || end_tree "$child"
    done
}

end_tree() {
    local child children
    read -ra children < <(cat "/proc/$1/task/"*/children 2>/dev/null) || true
    for child in ${children[@]+"${children[@]}"}; do end_tree "$child"; done
    kill -TERM "$1" 2>/dev/null || true
}
