#!/bin/bash
# What one task executes, the same file with every backend: its rank, its environment, the program, the program's end.
# The arguments are in argv.json beside this file; no text of the user's passes through a shell.
set -u
trap '' USR1 USR2 # sites and users let Slurm send these to every process of a step; they end neither this nor the program
umask 077
run_dir=$(cd -- "${BASH_SOURCE[0]%/*}" && pwd) || exit 2

# ---- rank: from Slurm where it started this task; the local backend sets the same variables itself
if [[ -n ${SLURM_PROCID-} ]]; then
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID NODE_RANK=$SLURM_NODEID
    export WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=2
    export MASTER_ADDR=$LAUNCHER_MASTER_ADDR
    # Two steps of a job, and two jobs on a node, get different ports; Linux assigns 32768 and above by itself.
    export MASTER_PORT=$((20000 + (SLURM_JOB_ID * 31 + SLURM_STEP_ID) % 9000))
fi
unset LAUNCHER_MASTER_ADDR
if [[ $WORLD_SIZE != 2 ]]; then
    echo "launcher: the plan has 2 ranks, but this step was started with $WORLD_SIZE" >&2
    exit 2
fi

# ---- environment: the cluster profile's, and --env
export PYTHONUNBUFFERED=1
export LAUNCHER_RUN_DIR=$run_dir LAUNCHER_ATTEMPT

# ---- hang watch: the ranks of a node count their steps in its memory, and one process of the step reads them there.
# It is not a child of a rank's program, and ends after the last step.sh of the node.
memory=/dev/shm
[[ -d $memory && -w $memory ]] || memory=${TMPDIR:-/tmp}
LAUNCHER_HEARTBEATS=$memory/launcher-$EUID-${run_dir##*/}-$LAUNCHER_ATTEMPT-${SLURM_JOB_ID:-local}-${SLURM_STEP_ID:-$MASTER_PORT}-$NODE_RANK
if (umask 077 && mkdir -p -- "$LAUNCHER_HEARTBEATS") && [[ -O $LAUNCHER_HEARTBEATS && ! -L $LAUNCHER_HEARTBEATS ]] &&
    echo "$$ $RANK" >"$LAUNCHER_HEARTBEATS/.shell-$LOCAL_RANK" &&
    mv -f -- "$LAUNCHER_HEARTBEATS/.shell-$LOCAL_RANK" "$LAUNCHER_HEARTBEATS/shell-$LOCAL_RANK"; then
    export LAUNCHER_HEARTBEATS
    if [[ $LOCAL_RANK == 0 ]]; then /opt/python/bin/python3 -S -E -B "$run_dir/code/launcher/job/watch/watchdog.py" & fi
else
    unset LAUNCHER_HEARTBEATS
fi

# ---- program
cd -- "$run_dir" && unset OLDPWD || exit 2
attempt_dir=$run_dir/attempts/$LAUNCHER_ATTEMPT
command=(/opt/python/bin/python3 "$run_dir/code/entrypoint.py")
# This shell stays, to record the end of a program that cannot do so itself (killed, os._exit). Whether SIGTERM means to
# save and stop or to end, only Slurm's controller knows: sbatch.sh asks it once the file `signalled` is there.
reader=''
on_term() {
    [[ -n ${SLURM_PROCID-} ]] || return
    [[ -e $attempt_dir/signalled ]] || : >"$attempt_dir/signalled"
    [[ -z $reader ]] || return
    end_if_cancelled >/dev/null 2>&1 &
    reader=$!
    disown
}
end_if_cancelled() {
    trap '' TERM
    until [[ -e $attempt_dir/notice.json ]]; do sleep 1; done
    [[ $(<"$attempt_dir/notice.json") != *'"cancelled"'* || -e $attempt_dir/stop ]] || kill -s KILL "$program"
}
trap : INT HUP
trap on_term TERM
"${command[@]}" &
program=$!
while :; do
    wait "$program"
    status=$?
    kill -0 "$program" 2>/dev/null && continue # a signal to this shell ends `wait`, not the program
    wait "$program" # bash keeps its status
    status=$?
    break
done
[[ -z $reader ]] || kill -s KILL "$reader" 2>/dev/null
printf -v record '%s/ranks/node-%04d.jsonl' "$attempt_dir" "$NODE_RANK"
now=${EPOCHREALTIME:-$(date +%s)}
# All ranks of the node append to this file; a line that one of them was killed in stays the only one that is lost.
printf '\n{"rank": %d, "status": %d, "time": %s, "host": "%s"}\n' "$RANK" "$status" "${now/,/.}" "${HOSTNAME:-unknown}" >>"$record"
exit "$status"
