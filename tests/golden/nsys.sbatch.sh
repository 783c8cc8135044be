#!/bin/bash
# Run small/20260921-120000-abcd on 2 x 4 ranks, written by Megatron Launcher 0.1.0.
# sbatch runs this file in a job of its own; `launcher run` runs it in the current allocation.
#SBATCH --job-name=small
#SBATCH --output=/home/ada/gpt/runs/small/20260921-120000-abcd/sbatch.log
#SBATCH --open-mode=append
#SBATCH --comment=launcher:20260921-120000-abcd:0
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --export=HOME,LANG,PATH,USER
set -uo pipefail
umask 077
run_dir=/home/ada/gpt/runs/small/20260921-120000-abcd
fail() {
    echo "launcher: $*" >&2
    exit 3
}

# ---- claim: one job owns this submission. sbatch may report a time-out although it queued the job, which is then sent twice
mkdir -p "$run_dir/claims" || fail "cannot write to $run_dir on ${HOSTNAME:-this node}: is it on a shared file system?"
claim=$run_dir/claims/submission-0
if ! (set -o noclobber; echo "$SLURM_JOB_ID" >"$claim") 2>/dev/null && [[ $(<"$claim") != "$SLURM_JOB_ID" ]]; then
    echo "launcher: job $(<"$claim") has this submission; job $SLURM_JOB_ID leaves it alone" >&2
    exit 0
fi

# ---- attempt: the first free number; a requeued job begins another one
for ((number = 0; ; number++)); do
    printf -v LAUNCHER_ATTEMPT '%03d' "$number"
    attempt_dir=$run_dir/attempts/$LAUNCHER_ATTEMPT
    [[ -e $attempt_dir ]] && continue
    mkdir -p "$run_dir/attempts" && mkdir "$attempt_dir" "$attempt_dir/logs" "$attempt_dir/ranks" && break
    [[ -e $attempt_dir/logs ]] || fail "cannot create $attempt_dir: is the disk full?"
done
ln -sfn "attempts/$LAUNCHER_ATTEMPT" "$run_dir/latest"
export LAUNCHER_ATTEMPT

# ---- nodes: rank 0 listens on the first one, at the address by which Slurm itself reaches it
names=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || fail "scontrol cannot list the nodes $SLURM_JOB_NODELIST"
mapfile -t nodes <<<"$names"
nodes=("${nodes[@]:0:2}")
nodelist=$(IFS=,; echo "${nodes[*]}")
[[ $(scontrol show node "${nodes[0]}") =~ NodeAddr=([^[:space:]]+) ]] || fail "scontrol does not know the address of ${nodes[0]}"
export LAUNCHER_MASTER_ADDR=${BASH_REMATCH[1]}

# ---- step: one task for each rank; since Slurm 22.05 srun does not inherit --cpus-per-task from the job
[[ -z ${SLURM_CPUS_PER_TASK-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
container=()
enter_rank=()
enter_run=()
exported=(HOME LANG LAUNCHER_ATTEMPT LAUNCHER_MASTER_ADDR PATH USER)
export=$(IFS=,; echo "${exported[*]}")
step=(
    srun --nodelist="$nodelist" --export="$export"
    --nodes=2
    --ntasks=8
    --ntasks-per-node=4
    --kill-on-bad-exit=1
    --wait=900
    --open-mode=append
    --input=none
    --cpu-bind=none
    --output="$attempt_dir/logs/rank-%4t.log"
    "${container[@]}"
)
trap : INT TERM # a signal ends the step, not this script, which still has to write the verdict
"${step[@]}" "${enter_rank[@]}" bash "$run_dir/step.sh" 2>"$attempt_dir/logs/srun.log"
status=$?

# ---- resources: srun reads those of the job from its variables; the steps below take one task each, and no GPU count
for variable in $(compgen -v); do
    case $variable in
        SLURM_GPU* | SLURM_GRES* | SLURM_STEP_GRES | SLURM_TRES_* | SLURM_MEM_* | SLURM_CPU_BIND* | SLURM_CPUS_PER_*) ;;
        SLURM_NTASKS* | SLURM_NPROCS | SLURM_DISTRIBUTION | SLURM_HINT | SLURM_THREAD* | SLURM_CORE_SPEC) ;;
        SLURM_EXACT | SLURM_EXCLUSIVE | SLURM_LABELIO | SLURM_STD*MODE | SLURM_SIGNAL | SRUN_*) ;;
        *) continue ;;
    esac
    unset "$variable"
done

# ---- verdict: launcher/job writes it, in the image; this script reads one word
one=(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" --export="$export" --input=none --time=10)
verdict=("$run_dir/code/launcher/job/result.py" "$run_dir" "$LAUNCHER_ATTEMPT" 8 "$status")
no_gpus=(--gres=none) # else the controller asks for all GPUs of the job on the one node
word=$("${one[@]}" "${no_gpus[@]}" "${enter_run[@]}" /opt/python/bin/python3 "${verdict[@]}" 2>>"$attempt_dir/logs/verdict.log")
case ${word##*$'\n'} in
    finished) exit 0 ;;
    stopped | failed | diverged) exit 1 ;;
    *) fail "no verdict on attempt $LAUNCHER_ATTEMPT (srun ended with status $status); see $attempt_dir/logs/verdict.log" ;;
esac
