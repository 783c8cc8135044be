#!/usr/bin/env bash
# DeepEP with HybridEP into /opt/venv, and the NVSHMEM that it is linked with, as NVIDIA builds them for Megatron Bridge.
# Between nodes both talk to mlx5 devices themselves; on a fabric without them the launcher refuses them.
# Needs DEEPEP_COMMIT (empty: nothing is built) and DEEPEP_ARCHS, a torch, nvcc, and system.sh beside this script.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# Its path is compiled in, and it is searched again when HybridEP compiles a kernel in training.
export RDMA_CORE_HOME=/opt/rdma-core/build
mkdir -p "$RDMA_CORE_HOME/lib"
if [[ -z ${DEEPEP_COMMIT:-} ]]; then
    echo "DeepEP is not wanted"
    exit 0
fi
: "${DEEPEP_ARCHS:?}"
venv=/opt/venv
unset PIP_CONSTRAINT
pip=("$venv/bin/python3" -m pip --disable-pip-version-check install --no-deps)
# libnvidia-ml is the driver's, and a build has no driver: this package has one to link with.
bash "$here/system.sh" git make libnvidia-ml-dev
# The file names without a version, which a linker looks for, are missing where the headers are not the distribution's.
system=/usr/lib/$(gcc -print-multiarch)
ln -sfn /usr/include "$RDMA_CORE_HOME/include"
for library in mlx5 ibverbs; do ln -sf "$system/lib$library.so.1" "$RDMA_CORE_HOME/lib/lib$library.so"; done
# A torch from PyPI has brought the NVSHMEM that it asks for; NVIDIA's torch gets the one of Megatron Bridge's own image.
compgen -G "$venv/lib/python3*/site-packages/nvidia_nvshmem_cu13-*" >/dev/null ||
    "${pip[@]}" --require-hashes --requirement "$here/python/nvshmem.txt"
nvshmem=$("$venv/bin/python3" -c 'import nvidia.nvshmem; print(*nvidia.nvshmem.__path__)')
ln -sf libnvshmem_host.so.3 "$nvshmem/lib/libnvshmem_host.so"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
git init --quiet
git fetch --quiet --depth 1 https://github.com/deepseek-ai/DeepEP.git "$DEEPEP_COMMIT"
git checkout --quiet --detach FETCH_HEAD
# A branch of that name would be another source.
[[ $(git rev-parse HEAD) == "$DEEPEP_COMMIT" ]]
# libcu++ has had a directory of its own since CUDA 13, where DeepEP does not look.
export CPATH=/usr/local/cuda/include/cccl${CPATH:+:$CPATH}
export HYBRID_EP_MULTINODE=1 TORCH_CUDA_ARCH_LIST=$DEEPEP_ARCHS
"${pip[@]}" --no-build-isolation .
