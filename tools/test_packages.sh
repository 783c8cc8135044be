#!/usr/bin/env bash
# Install what the tests use besides Python, from Debian's packages, where that is possible without asking: Slurm, for the
# tests that start a real one, and shellcheck. Where it is not, those tests are skipped with the reason.
set -euo pipefail
PATH=$PATH:/usr/sbin
if command -v slurmctld >/dev/null && command -v shellcheck >/dev/null; then exit 0; fi
if ! command -v apt-get >/dev/null || [[ $(id -u) != 0 ]]; then
    echo "Slurm or shellcheck is missing and cannot be installed here (needs apt-get and root): tests will be skipped" >&2
    exit 0
fi
packages=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge shellcheck)
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { apt-get update && apt-get install -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
    echo "Slurm or shellcheck could not be installed, so tests will be skipped:" >&2
    tail -n 5 "$log" >&2
fi
