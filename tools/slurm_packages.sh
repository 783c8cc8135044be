#!/usr/bin/env bash
# Install Slurm from Debian's packages for the tests that start a real one, where that is possible without asking.
# Where it is not, those tests are skipped with the reason.
set -euo pipefail
if command -v slurmctld >/dev/null || [[ -x /usr/sbin/slurmctld ]]; then exit 0; fi
if ! command -v apt-get >/dev/null || [[ $(id -u) != 0 ]]; then
    echo "Slurm is not installed and cannot be installed here (needs apt-get and root): its tests will be skipped" >&2
    exit 0
fi
packages=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge)
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { apt-get update && apt-get install -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
    echo "Slurm could not be installed, so its tests will be skipped:" >&2
    tail -n 5 "$log" >&2
fi
rm -f "$log"
