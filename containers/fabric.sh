#!/usr/bin/env bash
# User space of EFA (libfabric, rdma-core) where the base lacks it; NVIDIA's images bring it in /opt/amazon/efa.
# The kernel module belongs to the host. Needs EFA_VERSION, EFA_SHA256.
set -euo pipefail
if compgen -G "/opt/amazon/efa/lib*/libfabric.so.1" >/dev/null; then
    echo "the base has EFA's libfabric: $(/opt/amazon/efa/bin/fi_info --version | head -n 1)"
    exit 0
fi
: "${EFA_VERSION:?}" "${EFA_SHA256:?}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
curl --fail --silent --show-error --location --retry 5 --output efa.tar.gz \
    "https://efa-installer.amazonaws.com/aws-efa-installer-$EFA_VERSION.tar.gz"
echo "$EFA_SHA256  efa.tar.gz" | sha256sum --check --strict --quiet
tar -xf efa.tar.gz
apt-get -qq update
# Neither kernel module nor limits nor a device to try: this is a container. MPI stays out: ranks are started by Slurm.
(cd aws-efa-installer && ./efa_installer.sh -y --skip-kmod --skip-limit-conf --skip-mpi --no-verify)
# The plugin under its plain name would be loaded by every NCCL that finds it, on InfiniBand too. Under the name
# libnccl-net-ofi.so it is there for those who ask: NCCL_NET_PLUGIN=ofi.
rm -f /opt/amazon/ofi-nccl/lib*/libnccl-net.so /opt/amazon/ofi-nccl/lib*/*/libnccl-net.so
echo /opt/amazon/efa/lib >/etc/ld.so.conf.d/efa.conf
ldconfig
/opt/amazon/efa/bin/fi_info --version
