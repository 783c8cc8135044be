#!/usr/bin/env bash
# Install what the tests use besides Python, from Debian's packages, where that is possible without asking: Slurm, for the
# tests that start a real one; what makes and enters images; shellcheck; a browser for the page of a run. Where it is not,
# those tests are skipped with the reason. With the argument `soak` also what runs programs for aarch64.
set -euo pipefail
PATH=$PATH:/usr/sbin
declare -A package=(
    [slurmctld]=slurmctld [slurmd]=slurmd [sbatch]=slurm-client [munged]=munge [shellcheck]=shellcheck
    [mksquashfs]=squashfs-tools [bwrap]=bubblewrap [buildah]=buildah [podman]=podman [mmdebstrap]=mmdebstrap
    [slurmdbd]=slurmdbd [mariadbd]=mariadb-server
    [docker-registry]=docker-registry [zstd]=zstd [chromium]=chromium [sshd]=openssh-server [squashfuse]=squashfuse [fusermount3]=fuse3
)
if [[ ${1:-} == soak && $(uname -m) == x86_64 ]]; then
    package+=([qemu-aarch64-static]=qemu-user-static [update-binfmts]=binfmt-support [arch-test]=arch-test)
fi
missing=()
for program in "${!package[@]}"; do command -v "$program" >/dev/null || missing+=("${package[$program]}"); done
emulate() { # let the kernel start programs for aarch64 with qemu, where root may say so
    [[ ${1:-} == soak && $(uname -m) == x86_64 && $(id -u) == 0 ]] || return 0
    command -v update-binfmts >/dev/null || return 0
    [[ -e /proc/sys/fs/binfmt_misc/register ]] || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc || return 0
    [[ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ]] || update-binfmts --enable qemu-aarch64 || true
}
if ((${#missing[@]} == 0)); then
    emulate "$@"
    exit 0
fi
if ! command -v apt-get >/dev/null || [[ $(id -u) != 0 ]]; then
    echo "missing, and not to be installed here (needs apt-get and root): ${missing[*]}; tests will be skipped" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
missing+=(slurm-wlm-basic-plugins)
if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    echo "${missing[*]} could not be installed, so tests will be skipped:" >&2
    tail -n 5 "$log" >&2
fi
emulate "$@"
