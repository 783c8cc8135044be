#!/usr/bin/env bash
# Resolve cpu.in, gpu.in and docs.in into files with exact versions and hashes. Usage: requirements/compile.sh [extra uv options]
# Versions stay as the files have them where they still fit; --upgrade takes the newest.
#   cpu.txt    the launcher, its development tools and the CPU training stack, without torch
#   torch.txt  torch and the CUDA libraries that its wheel on PyPI asks for, with the same versions as cpu.txt was resolved with
#   gpu.txt    the training stack of a GPU image
#   oldest.txt  the launcher and what its tests need on Python 3.10, without the training stack
#   nemo-run.txt  the launcher with NeMo-Run and what its tests need, in an environment of its own (tools/nemo_run.sh)
#   docs.txt   the builder of the documentation's site, in an environment of its own (make docs)
#   bridge-0.3.1.txt  an older Megatron Bridge on Python 3.11 and CPU, for the tests, without torch: that is torch.txt's too
# torch is apart so that another index can serve it (TORCH_INDEX, see the Makefile).
set -euo pipefail
cd "$(dirname "$0")"
uv=${UV:-uv}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# What an output file holds already is preferred.
cat cpu.txt torch.txt >"$work/all.txt"
cp gpu.txt docs.txt "$work"
[[ ! -e nemo-run.txt ]] || cp nemo-run.txt "$work"
common=(--quiet --generate-hashes --no-header --no-annotate "$@")

compile() { "$uv" pip compile "${common[@]}" "$@"; }

cpu=(--override overrides.txt --python-version 3.12 --python-platform x86_64-manylinux_2_31 ../pyproject.toml --extra dev --extra tasks --extra analysis --extra sweep --extra evaluate cpu.in)
compile "${cpu[@]}" --output-file "$work/all.txt"
# Names of torch and of everything that only its CUDA build needs (not triton: megatron-core imports it everywhere): one requirement a line, hashes on the lines after it.
cuda='^(torch|nvidia-(cublas|cuda|cudnn|cufft|cufile|curand|cusolver|cusparse|cusparselt|nccl|nvjitlink|nvshmem|nvtx)[a-z0-9-]*|cuda-(bindings|pathfinder|toolkit))=='
awk -v cuda="$cuda" -v torch="$work/torch.txt" -v rest="$work/cpu.txt" \
    '/^[A-Za-z0-9]/ { out = ($0 ~ cuda) ? torch : rest } { print > out }' "$work/all.txt"
compile --override overrides.txt --python-version 3.12 --python-platform x86_64-manylinux_2_39 gpu.in --output-file "$work/gpu.txt"
compile --python-version 3.10 --python-platform x86_64-manylinux_2_31 ../pyproject.toml oldest.in --output-file "$work/oldest.txt"
compile --python-version 3.12 docs.in --output-file "$work/docs.txt"
compile --python-version 3.12 --python-platform x86_64-manylinux_2_31 ../pyproject.toml --extra nemo-run oldest.in --output-file "$work/nemo-run.txt"

# Thus both have the same versions as far as possible, and torch is the same.
old=bridge-0.3.1
cp "$work/all.txt" "$work/old.txt"
compile --override overrides-0.3.1.txt --python-version 3.11 --python-platform x86_64-manylinux_2_31 $old.in --output-file "$work/old.txt"
awk -v cuda="$cuda" -v torch="$work/old-torch.txt" -v rest="$work/$old.txt" \
    '/^[A-Za-z0-9]/ { out = ($0 ~ cuda) ? torch : rest } { print > out }' "$work/old.txt"
cmp "$work/torch.txt" "$work/old-torch.txt"

for name in cpu torch gpu docs oldest nemo-run "$old"; do
    { echo "# Written by requirements/compile.sh; do not edit."; cat "$work/$name.txt"; } >"$name.txt"
done
