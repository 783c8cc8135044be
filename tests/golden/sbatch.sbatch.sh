#!/bin/bash
# Run small/20260921-120000-abcd on 2 x 4 ranks, written by Megatron Launcher 0.1.0.
# sbatch runs this file in a job of its own; `launcher run` runs it in the current allocation.
#SBATCH --job-name=small
#SBATCH --output=/home/ada/gpt/runs/small/20260921-120000-abcd/sbatch.log
#SBATCH --open-mode=append
#SBATCH --comment=launcher:20260921-120000-abcd:0123456789ab
#SBATCH --signal=B:USR1@210
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --time=30:00
#SBATCH --export=HOME,LANG,PATH,USER
set -uo pipefail
umask 077
run_dir=/home/ada/gpt/runs/small/20260921-120000-abcd
fail() {
    echo "launcher: $*" >&2
    exit 3
}

# The start of this script by the node's clock, and by one that is never set: of two clocks no times are compared.
read_uptime() { # sets `up`: seconds since the node has booted. Bash's SECONDS follows the node's clock, which may be set.
    read -r up _ </proc/uptime
    up=${up%.*}
}
read_uptime
begun=$(date +%s) begun_up=$up

# How Slurm names this job: ARRAY_INDEX for a task of an array, of which one has the number of the whole array.
this_job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID-}}
this_job=${this_job:-$SLURM_JOB_ID}

# ---- owner: one job at a time runs this run. sbatch may report a time-out although it queued the job, which is then
# sent twice. The lease is a file that is linked into place whole; an empty or unreadable one belongs to no job.
nonce=${1-launcher:20260921-120000-abcd:0123456789ab} # a successor is this file with a token of its own
lease=$run_dir/lease
read_lease() { # FILE: sets `text` and `owner_*`; of a file that is not a lease `owner` stays empty
    owner='' owner_job='' owner_cluster='' owner_attempt='' text=''
    { text=$(<"$1"); } 2>/dev/null
    [[ $text =~ \"nonce\":\ \"([^\"]+)\".*\} ]] && owner=${BASH_REMATCH[1]}
    [[ $text =~ \"job_id\":\ \"([^\"]+)\" ]] && owner_job=${BASH_REMATCH[1]}
    [[ $text =~ \"cluster\":\ \"([^\"]+)\" ]] && owner_cluster=${BASH_REMATCH[1]}
    [[ $text =~ \"attempt\":\ \"([0-9]+)\" ]] && owner_attempt=${BASH_REMATCH[1]}
}
is_this_job() { # whether the lease that read_lease has found is that of this job; each cluster counts its jobs on its own
    [[ $owner_job == "$this_job" ]] || return 1
    [[ -z $owner_cluster || -z ${SLURM_CLUSTER_NAME-} || $owner_cluster == "$SLURM_CLUSTER_NAME" ]] ||
        ((SLURM_JOB_ID >= 1 << 26)) # a federation's number says where it was submitted
}
owner_has_ended() { # Of the owner that read_lease has found. Without an answer from Slurm it has not.
    local states elsewhere=()
    [[ -n $owner ]] || return 0
    if [[ $owner == "$nonce" ]]; then
        is_this_job # before it was requeued; else it is another job of the same submission
        return
    fi
    [[ -n $owner_attempt && -e $run_dir/attempts/$owner_attempt/result.json ]] && return 0
    [[ -n $owner_job ]] || return 1
    [[ -z $owner_cluster || $owner_cluster == "${SLURM_CLUSTER_NAME-}" ]] || elsewhere=("--clusters=$owner_cluster")
    states=$(squeue "${elsewhere[@]}" --noheader --states=all --jobs="$owner_job" --format=%T 2>&1) ||
        [[ $states == *"Invalid job id"* ]] || return 1
    ! grep -qE '^(PENDING|RUNNING|SUSPENDED|STOPPED|CONFIGURING|COMPLETING|REQUEUE|SIGNALING|RESIZING|STAGE_OUT|SPECIAL|PREEMPTED|NODE_FAIL)' <<<"$states"
}
lose() {
    local who=${owner_job:+job $owner_job}
    printf '{"time": %s, "event": "not_owner", "job": "%s", "owner": "%s", "owner_job": "%s"}\n' \
        "$(date +%s)" "$this_job" "$owner" "$owner_job" >>"$run_dir/journal.jsonl"
    echo "launcher: ${who:-another process} owns this run; job $this_job ends without touching it" >&2
    exit 1
}
set_aside() { # Only one process wins the renaming; one that was late puts back what it should not have moved
    local expected=$text aside=$lease.${owner:-unreadable-$SLURM_JOB_ID}.ended
    mv -T "$lease" "$aside" 2>/dev/null || return 0
    read_lease "$aside"
    [[ $text == "$expected" ]] || ln -T "$aside" "$lease" 2>/dev/null
}
owns_run() {
    read_lease "$lease"
    [[ $text == "$mine" ]]
}
release() {
    ! owns_run || mv -T "$lease" "$lease.$nonce.ended"
}
for ((number = 0; ; number++)); do # the first free number; a requeued job begins another attempt
    printf -v LAUNCHER_ATTEMPT '%03d' "$number"
    [[ -e $run_dir/attempts/$LAUNCHER_ATTEMPT ]] || break
done
read_lease "$lease.$nonce.ended"
[[ -z $owner_job ]] || is_this_job || lose
printf -v mine '{"version": 1, "nonce": "%s", "cluster": %s, "job_id": "%s", "host": "%s", "attempt": "%s", "time": %s}' \
    "$nonce" "${SLURM_CLUSTER_NAME:+\"$SLURM_CLUSTER_NAME\"}" "$this_job" "${HOSTNAME-}" "$LAUNCHER_ATTEMPT" "$(date +%s)"
mine=${mine/\"cluster\": ,/\"cluster\": null,}
temporary=$lease.$SLURM_JOB_ID.$$.tmp
{ echo "$mine" >"$temporary" && [[ $(<"$temporary") == "$mine" ]]; } 2>/dev/null || {
    rm -f "$temporary"
    fail "cannot write to $run_dir on ${HOSTNAME:-this node}: is its disk full, and is it on a shared file system?"
}
while :; do
    ln -T "$temporary" "$lease" 2>/dev/null
    read_lease "$lease" # over NFS the status of ln may be wrong
    [[ $text != "$mine" ]] || break
    owner_has_ended || { rm -f "$temporary"; lose; }
    set_aside
done
rm -f "$temporary"
trap release EXIT

# ---- a job that was queued behind another one has nothing to do where that one has finished, or where it would fail too
was_cancelled() { # whether `launcher cancel` was called after this job was submitted or last requeued, and scancel worked
    local line count=0
    while read -r line || [[ -n $line ]]; do
        case $line in
            *'"event": "submit_intent"'*"\"token\": \"$nonce\""* | *'"event": "requeue"'*"\"token\": \"$nonce\""*) count=0 ;;
            *'"event": "launched"'*) count=0 ;;
            *'"event": "cancelled"'*) ((count += 1)) ;;
            *'"event": "cancel_failed"'*) ((count -= count > 0)) ;;
        esac
    done <"$run_dir/journal.jsonl"
    ((count > 0))
} 2>/dev/null
printf -v before '%03d' "$((number > 0 ? number - 1 : 0))"
if [[ $nonce != launcher:20260921-120000-abcd:0123456789ab ]] && was_cancelled; then
    echo "launcher: the run was cancelled; job $this_job ends" >&2
    exit 1
fi
if [[ $nonce != launcher:20260921-120000-abcd:0123456789ab ]] && { ended=$(<"$run_dir/attempts/$before/result.json"); } 2>/dev/null; then
    decided=''
    { decided=$(<"$run_dir/attempts/$before/next.json"); } 2>/dev/null
    if [[ $ended == *'"outcome": "finished"'* ]]; then
        echo "launcher: the run has finished; job $this_job has nothing to do" >&2
        exit 0
    elif [[ $ended == *'"cause": "user"'* && ($decided == '' || $decided == *'"action": "end"'*) ]] &&
        ! compgen -G "$run_dir/attempts/*/metrics.jsonl" >/dev/null; then # what has trained before is not wrong
        echo "launcher: the request is wrong, and job $this_job would fail in the same way: see attempt $before" >&2
        exit 1
    elif [[ $decided == *'"action": "end"'* ]]; then
        echo "launcher: the run has ended; job $this_job does not continue it: see attempt $before" >&2
        exit 1
    fi
fi

clear_resources() { # For steps of one task each: srun reads the job's resources from these variables
    local variable
    for variable in $(compgen -v); do
        case $variable in
            SLURM_GPU* | SLURM_GRES* | SLURM_STEP_GRES | SLURM_TRES_* | SLURM_MEM_* | SLURM_CPU_BIND* | SLURM_CPUS_PER_*) ;;
            SLURM_NTASKS* | SLURM_NPROCS | SLURM_DISTRIBUTION | SLURM_HINT | SLURM_THREAD* | SLURM_CORE_SPEC) ;;
            SLURM_EXACT | SLURM_EXCLUSIVE | SLURM_LABELIO | SLURM_STD*MODE | SLURM_SIGNAL | SRUN_*) ;;
            *) continue ;;
        esac
        unset "$variable"
    done
}

# ---- attempt; from here on a signal ends nothing by itself, so that each attempt gets a verdict
woken=0 terminated=0
trap 'woken=1' USR1 USR2
trap 'woken=1 terminated=1' TERM
trap : INT
attempt_dir=$run_dir/attempts/$LAUNCHER_ATTEMPT
mkdir -p "$run_dir/attempts" && mkdir "$attempt_dir" "$attempt_dir/logs" "$attempt_dir/ranks" "$attempt_dir/stacks" ||
    fail "cannot create $attempt_dir: is the disk full?"
ln -sfn "attempts/$LAUNCHER_ATTEMPT" "$run_dir/latest"
export LAUNCHER_ATTEMPT
# Which start this attempt belongs to, by its token and by the controller's own clock: clocks of other machines differ.
job_start=${SLURM_JOB_START_TIME:-$(SLURM_TIME_FORMAT=%s squeue --noheader --jobs="$this_job" --format=%S 2>/dev/null)}
[[ $job_start =~ ^[0-9]+$ ]] || job_start=-
said=$(stat -c %s "$run_dir/sbatch.log" 2>/dev/null) # all attempts share sbatch.log; this one's part begins here
echo "$nonce $SLURM_JOB_ID $job_start ${said:-0}" >"$attempt_dir/start" || fail "cannot write to $attempt_dir: is the disk full?"

# ---- notice: why the job ends. The ranks learn it from the file `stop`, the verdict from `notice.json`. Slurm signals
# this script before the time limit (--signal=B:USR1@N, up to a minute early) and when it ends the job. Of a preemption it
# signals the tasks alone; then step.sh leaves the file `signalled`.
stop_s=150 # before the end the ranks are asked to save a checkpoint and to stop, but not in the first half
half_s=$stop_s ended_by='' over=0 clock_known=0 may_requeue=0
notice=$attempt_dir/notice.json stop=$attempt_dir/stop signalled=$attempt_dir/signalled
look() { # sets `why` (empty where nothing ends the job) and `left_s` until its end; fails if Slurm does not answer
    local shown state end='' up most
    why='' left_s=''
    shown=$(SLURM_TIME_FORMAT=%s scontrol --oneliner show job "$this_job" 2>/dev/null) || return 1
    [[ $shown =~ [[:space:]]JobState=([A-Z_]+) ]] || return 1
    state=${BASH_REMATCH[1]}
    [[ ! $shown =~ [[:space:]]Requeue=1[[:space:]] ]] || may_requeue=1
    if [[ $shown =~ [[:space:]]EndTime=([0-9]+) ]]; then
        end=${BASH_REMATCH[1]}
        read_uptime
        # About steps, unlike jobs, the controller says when it has answered. Without that the node's clock counts; where
        # it is ahead, the ranks stop too early.
        if ((!clock_known)) && [[ $(SLURM_TIME_FORMAT=%s scontrol --verbose show step "$SLURM_JOB_ID" 2>/dev/null) =~ last_update_time=([0-9]+) ]]; then
            clock_known=1 begun=$((BASH_REMATCH[1] - up + begun_up))
        fi
        left_s=$((end - begun - up + begun_up))
        if [[ $shown =~ [[:space:]]StartTime=([0-9]+) ]]; then # this script began after that, whatever a clock says
            most=$((end - BASH_REMATCH[1] - up + begun_up)) half_s=$(((end - BASH_REMATCH[1]) / 2))
            ((left_s <= most)) || left_s=$most
        fi
    fi
    [[ $state == RUNNING || $state == SUSPENDED ]] || over=1 # Slurm starts no further step
    if [[ $shown =~ [[:space:]]PreemptTime=[0-9] || $state == PREEMPTED ]]; then
        why=preempted
    elif [[ $shown =~ [[:space:]]Reason=TimeLimit[[:space:]] || $state == TIMEOUT || $state == DEADLINE ]]; then
        why='time limit'
    elif ((!over)); then
        [[ -z $left_s ]] || ((left_s > stop_s || left_s > half_s)) || why='time limit'
    elif [[ $shown =~ [[:space:]]Restarts=([0-9]+) ]] && ((BASH_REMATCH[1] > ${SLURM_RESTART_COUNT:-0})); then
        # slurmstepd writes why to both logs; this job may have been requeued before, so the last line counts
        case $(grep -ahE "CANCELLED AT .* DUE TO|Node failure on " "$run_dir/sbatch.log" "$attempt_dir/logs/srun.log" 2>/dev/null | tail -n 1) in
            *"DUE TO PREEMPTION"*) why=preempted ;;
            *"DUE TO NODE FAILURE"* | *"Node failure on "*) ;;
            *) why=requeued ;;
        esac
    else
        why=cancelled
    fi
}

# ---- nodes: rank 0 listens on the first one, at the address by which Slurm itself reaches it unless the profile says more
names=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || fail "scontrol cannot list the nodes $SLURM_JOB_NODELIST"
mapfile -t nodes <<<"$names"
nodes=("${nodes[@]:0:2}")
nodelist=$(IFS=,; echo "${nodes[*]}")
printf '%s\n' "${nodes[@]}" >"$attempt_dir/nodes"
first=$(scontrol show node "${nodes[0]}")
[[ $first =~ NodeAddr=([^[:space:]]+) ]] || fail "scontrol does not know the address of ${nodes[0]}"
export LAUNCHER_MASTER_ADDR=${BASH_REMATCH[1]}

# ---- step: one task for each rank; since Slurm 22.05 srun does not inherit --cpus-per-task from the job
share_cpus() { # sets `share`: the CPUs of the node with the fewest, divided by its ranks; whole cores if there is one for each
    local each counts threads=1 fewest=0
    IFS=, read -ra counts <<<"${SLURM_JOB_CPUS_PER_NODE:-0}" # such as 72(x2),36
    for each in "${counts[@]%%(*}"; do ((fewest && fewest <= each)) || fewest=$each; done
    [[ ! $first =~ ThreadsPerCore=([0-9]+) ]] || threads=${BASH_REMATCH[1]}
    if [[ ${SLURM_THREADS_PER_CORE-} == 1 || ${SLURM_HINT-} == *nomultithread* ]]; then # srun counts cores then
        ((fewest /= threads, threads = 1))
    fi
    share=$((fewest / 4))
    ((share < threads)) || share=$((share / threads * threads))
}
share_cpus
unset SLURM_CPUS_PER_GPU # srun takes one of both
((share == 0)) || export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-$share}
container=()
enter_rank=()
exported=(HOME LANG LAUNCHER_ATTEMPT LAUNCHER_MASTER_ADDR PATH USER)
export=$(IFS=,; echo "${exported[*]}")
step=(
    srun --nodelist="$nodelist" --export="$export"
    --nodes=2
    --ntasks=8
    --ntasks-per-node=4
    --kill-on-bad-exit=1
    --wait=60
    --open-mode=append
    --input=none
    --cpu-bind=none
    --output="$attempt_dir/logs/rank-%4t.log"
    "${container[@]}"
)

# ---- while the ranks run
measure() { # raises `stop_s` where the last save of this attempt took more than half of it
    local line save_s=0
    while read -r line; do
        [[ $line != *'"event": "save"'* || ! $line =~ \"seconds\":\ ([0-9]+) ]] || save_s=${BASH_REMATCH[1]}
    done < <(tail -n 50 "$attempt_dir/timeline.jsonl" 2>/dev/null)
    ((save_s * 2 <= stop_s || stop_s >= save_s * 3 / 2 + 30)) || stop_s=$((save_s * 3 / 2 + 30))
}
watch() { # wakes this script when step.sh has seen a signal, and near the end of the job, which may have moved
    local deadline='' left tick=0 up
    trap - TERM INT USR1 USR2
    set_deadline() {
        read_uptime
        [[ -z $left_s ]] && deadline='' || deadline=$((up + left_s))
    }
    ! look || set_deadline
    # what is handed to the ranks may be secret: the waiting program does not get it
    while (export -n "${exported[@]}" && exec sleep 1) && kill -0 $$; do
        read_uptime
        left=$((deadline - up))
        if [[ -e $signalled ]]; then
            kill -s USR1 $$
        elif [[ -n $deadline ]]; then
            ((tick++ % 30 || left > 3600)) || measure
            ((left <= stop_s && left <= half_s)) && look || continue
            set_deadline
            [[ -z $why || -e $stop ]] || kill -s USR1 $$
        fi
    done
}
on_signal() {
    local up
    [[ ! -e $signalled ]] || terminated=1
    measure
    look || ((!terminated)) || why=signal # without an answer too much is saved rather than too little
    [[ -n $why ]] || ((!terminated)) || ! was_cancelled || why=cancelled # in an allocation, which goes on
    [[ -n $why || ${step[0]} != false ]] || ((!terminated)) || why=signal # no rank has started, because of it
    if [[ -n $why && -z $ended_by ]]; then
        ended_by=$why
        printf '{"version": 1, "time": %s, "why": "%s", "left_s": %s}\n' "$(date +%s)" "$why" "${left_s:-null}" \
            >"$notice.tmp" && mv -f "$notice.tmp" "$notice"
    fi
    if [[ -z $why ]] && ((!terminated)); then # the end of the job may have moved
        kill "$watcher" 2>/dev/null
        start_watch
    elif [[ -e $stop ]]; then # asked already, perhaps by `launcher cancel --checkpoint`
        rm -f "$signalled"
    elif [[ -z $why || ($why == cancelled && $over == 0) ]]; then # srun ends the step after a failure, or a user does: a moment for the ranks' own records
        : >"$signalled"
        read_uptime
        patience=${patience:-$((up + 3))}
        ((up < patience)) || kill -s TERM "$srun" 2>/dev/null
    elif [[ $why == cancelled ]]; then # each step.sh ends its program
        rm -f "$signalled"
    else
        rm -f "$signalled"
        echo "launcher: $why: the ranks are asked to save and to stop" >&2
        echo "$why" >"$stop.tmp" && mv -f "$stop.tmp" "$stop"
    fi
}
start_watch() {
    watch >/dev/null 2>&1 &
    watcher=$!
    disown
}
patience=''
((!terminated)) || step=(false) # the job ends before its ranks have started
"${step[@]}" "${enter_rank[@]}" bash "$run_dir/step.sh" 2>"$attempt_dir/logs/srun.log" &
srun=$!
start_watch
while :; do
    if ((!woken)); then
        wait "$srun"
        status=$?
        ((woken)) || break # else a signal has ended `wait`; bash keeps the status of srun for the next one
    fi
    woken=0
    on_signal
done
kill "$watcher" 2>/dev/null

# ---- resources: srun reads those of the job from its variables; the steps below take one task each, and no GPU count
clear_resources

# ---- verdict: launcher/job writes it, in the image; this script reads one word
terminated=0 # from here on: whether Slurm ends the job although the decision has begun
one=(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" --export="$export" --input=none --time=10)
verdict=("$run_dir/code/launcher/job/result.py" "$run_dir" "$LAUNCHER_ATTEMPT" 8 "$status")
no_gpus=(--gres=none) # else the controller asks for all GPUs of the job on the one node
word=''
if ((!over)); then
    word=$("${one[@]}" "${no_gpus[@]}" /opt/python/bin/python3 "${verdict[@]}" 2>>"$attempt_dir/logs/verdict.log")
fi
# Where no step and no container starts, the launcher's own interpreter writes it.
[[ -n $word ]] || word=$(/opt/python/bin/python3 "${verdict[@]}" 2>>"$attempt_dir/logs/verdict.log")
word=${word##*$'\n'}
if [[ $word == stopped && $ended_by == preempted ]] && ((may_requeue && !over)) && owns_run; then
    scontrol requeue "$this_job" # Slurm itself does so only if the job still runs when its grace time is over
fi
case $word in
    finished) exit 0 ;;
    stopped | failed | diverged) exit 1 ;;
    *) fail "no verdict on attempt $LAUNCHER_ATTEMPT (srun ended with status $status); see $attempt_dir/logs/verdict.log" ;;
esac
