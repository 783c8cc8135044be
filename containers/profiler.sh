#!/usr/bin/env bash
# Nsight Systems where the base lacks it, from NVIDIA's repository: NVIDIA's CUDA images have it configured, with its key.
# Needs NSYS_PACKAGE, NSYS_VERSION.
set -euo pipefail
if command -v nsys >/dev/null; then
    nsys --version
    exit 0
fi
: "${NSYS_PACKAGE:?}" "${NSYS_VERSION:?}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends "$NSYS_PACKAGE=$NSYS_VERSION" >/dev/null
# Its package may leave the program in a directory of its own.
if ! command -v nsys >/dev/null; then
    nsys=$(find /opt/nvidia /usr/local/cuda* -name nsys -path '*bin*' 2>/dev/null | sort | tail -n 1)
    ln -s "${nsys:?the package holds no nsys}" /usr/local/bin/nsys
fi
nsys --version
