#!/usr/bin/env bash
# Create a virtual environment with NeMo-Run and the launcher, for the tests of launcher.nemo_run. It is apart from .venv:
# torchx and leptonai hold back urllib3 and others. Where it cannot be made its tests are skipped with the reason.
# Usage: tools/nemo_run.sh [VENV].
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv-nemo-run}
export UV_SYSTEM_CERTS=true
wanted=(requirements/nemo-run.txt pyproject.toml tools/nemo_run.sh)

up_to_date() {
    local file
    for file in "${wanted[@]}"; do [[ $venv/.installed -nt $file ]] || return 1; done
}

if up_to_date; then exit 0; fi
uv=$(command -v uv || command -v .venv/bin/uv)
[[ -x $venv/bin/python ]] || "$uv" venv --quiet --python .venv/bin/python "$venv"
pip=("$uv" pip install --quiet --python "$venv/bin/python" --no-deps)
if ! { "${pip[@]}" --require-hashes --requirement requirements/nemo-run.txt && "${pip[@]}" --no-build-isolation --editable .; }; then
    echo "NeMo-Run could not be installed in $venv, so its tests will be skipped" >&2
    rm -f "$venv/.installed"
    exit 0
fi
touch "$venv/.installed"
