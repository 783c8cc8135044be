#!/usr/bin/env bash
# NCCL's plugin for libfabric (aws-ofi-nccl), built where the base lacks it: NVIDIA's PyTorch images have not had it
# since 26.06.
# It lands in /opt/amazon/ofi-nccl, which a later stage copies; the compilers stay here.
# Needs OFI_NCCL_VERSION, OFI_NCCL_SHA512.
set -euo pipefail
prefix=/opt/amazon/ofi-nccl
mkdir -p "$prefix"
if [[ -n $(find "$prefix" -name libnccl-net-ofi.so -print -quit) ]]; then
    echo "the base has aws-ofi-nccl"
    exit 0
fi
: "${OFI_NCCL_VERSION:?}" "${OFI_NCCL_SHA512:?}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
curl --fail --silent --show-error --location --retry 5 --output plugin.tar.gz \
    "https://github.com/aws/aws-ofi-nccl/releases/download/v$OFI_NCCL_VERSION/aws-ofi-nccl-$OFI_NCCL_VERSION.tar.gz"
echo "$OFI_NCCL_SHA512  plugin.tar.gz" | sha512sum --check --strict --quiet
tar -xf plugin.tar.gz --strip-components=1
# As in fabric.sh: no library under the plain name libnccl-net.so.
./configure --prefix="$prefix" --with-libfabric=/opt/amazon/efa --with-cuda=/usr/local/cuda \
    --enable-platform-aws --disable-tests --disable-nccl-net-library
make -j "$(nproc)"
make install
test -s "$prefix/lib/libnccl-net-ofi.so"
