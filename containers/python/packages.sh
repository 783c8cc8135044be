#!/usr/bin/env bash
# Install a file of pinned requirements with hashes into /opt/venv, which sees the base's own packages.
# Usage: packages.sh REQUIREMENTS
#
# Wheels in the directory wheels/ beside this script are taken from there: a build without a network needs them all.
# What the base owns (torch, Transformer Engine, CUDA: owned.txt) is left out where the base has a torch: everything in
# the image that was compiled against it would break. Dependencies are never resolved here: the file has them all.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
requirements=${1:?usage: packages.sh REQUIREMENTS}
venv=/opt/venv
[[ -x $venv/bin/python3 ]] || python3 -m venv --system-site-packages "$venv"
# NVIDIA's images constrain pip to their own versions; the requirements are pinned, and what the base owns is left out.
unset PIP_CONSTRAINT
pip=("$venv/bin/python3" -m pip --disable-pip-version-check install --no-deps --require-hashes)
[[ ! -d $here/wheels ]] || pip+=(--find-links "$here/wheels")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
keep=(--without "$here/owned.txt")
python3 -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' || keep=()
# Source distributions that compile against the installed torch come last, without a build environment of their own.
python3 "$here/choose.py" "$requirements" ${keep[@]+"${keep[@]}"} --without "$here/compiled.txt" >"$work/wheels.txt"
python3 "$here/choose.py" "$requirements" ${keep[@]+"${keep[@]}"} --only "$here/compiled.txt" >"$work/compiled.txt"
"${pip[@]}" --requirement "$work/wheels.txt"
if [[ -s $work/compiled.txt ]]; then
    # Transformer Engine includes the headers of NCCL and cuDNN, which lie in NVIDIA's wheels.
    for include in "$venv"/lib/python3*/site-packages/nvidia/*/include; do
        CPATH=${CPATH:+$CPATH:}$include
    done
    export CPATH NVTE_FRAMEWORK=pytorch
    "${pip[@]}" --no-build-isolation --requirement "$work/compiled.txt"
fi
"$venv/bin/python3" -m compileall -q -j 0 "$venv"/lib/python3*/site-packages >/dev/null 2>&1 || true
