#!/usr/bin/env bash
# Run a recipe in the allocation that this shell is in:
#
#     salloc -N 2 --gpus-per-node=8 --exclusive
#     ./srun.sh [--nsys] [options] recipes/vanilla_gpt_pretrain.py [key=value ...]
#
# It calls `launcher run` with three variables: SQSH (image; default ./megatron-lm+latest.sqsh where it exists and the
# cluster has a container runtime), MOUNT (SRC:DST,...; default this checkout at /workspace/megatron, and /fsx where it exists),
# GPUS_PER_NODE (default: what the allocation has).
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

if [[ -z ${SLURM_JOB_ID-} ]]; then
    cat >&2 <<'TEXT'
error: ./srun.sh needs a Slurm allocation, and this shell is not inside one.
Allocate nodes first (salloc -N 2 --gpus-per-node=8 --exclusive) and run it in the shell that salloc starts, submit a
batch job (launcher submit RECIPE), or run on this machine without Slurm (launcher run --cluster local RECIPE).
TEXT
    exit 2
fi

if [[ -x $here/.venv/bin/launcher ]]; then
    launcher=("$here/.venv/bin/launcher")
elif command -v launcher >/dev/null; then
    launcher=(launcher)
else
    echo "error: the command launcher is not installed; run 'make install' in $here" >&2
    exit 2
fi

options=(--default-image "$here/megatron-lm+latest.sqsh" --default-mount "$here:/workspace/megatron")
[[ ! -d /fsx ]] || options+=(--default-mount /fsx:/fsx)
[[ -z ${SQSH-} ]] || options+=(--image "$SQSH")
[[ -z ${GPUS_PER_NODE-} ]] || options+=(--gpus-per-node "$GPUS_PER_NODE")
if [[ -n ${MOUNT-} ]]; then
    IFS=, read -r -a mounts <<<"$MOUNT"
    for mount in "${mounts[@]}"; do options+=(--mount "$mount"); done
fi
exec "${launcher[@]}" run "${options[@]}" "$@"
