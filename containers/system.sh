#!/usr/bin/env bash
# Debian packages that the base lacks: Python with venv, a C++ compiler (Triton and torch.compile call one in training),
# and what the fabrics' libraries need. Versions come with the base's release: its archive keeps only the newest.
# Usage: system.sh [PACKAGE ...]: these instead.
set -euo pipefail
packages=("$@")
if [[ ${#packages[@]} -eq 0 ]]; then
    packages=(ca-certificates curl g++ gcc libhwloc15 libibverbs1 ibverbs-providers libnuma1 numactl)
    # HybridEP compiles against these headers. Where a vendor's packages have brought them, theirs stay.
    [[ -e /usr/include/infiniband/mlx5dv.h ]] || packages+=(libibverbs-dev)
    # An image that has its own Python (conda, /opt) keeps it: nothing is installed beside it.
    python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3 python3-dev python3-venv)
fi
missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ $state == installed ]] || missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
    echo "the base has everything: ${packages[*]}"
    exit 0
fi
echo "the base lacks: ${missing[*]}"
# Debian's and Ubuntu's images throw downloaded packages away; the cache mount is there to keep them.
rm -f /etc/apt/apt.conf.d/docker-clean
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# A build that is cut short is thrown away, so that nothing has to be on disk at every moment.
apt-get -qq install --yes --no-install-recommends -o APT::Keep-Downloaded-Packages=true \
    -o Dpkg::Options::=--force-unsafe-io "${missing[@]}" >/dev/null
dpkg-query --show "${missing[@]}"
