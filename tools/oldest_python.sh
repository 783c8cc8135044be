#!/usr/bin/env bash
# Create a virtual environment with the oldest Python that the launcher supports, 3.10, and the launcher in it, without a
# training stack. Where there is no Python 3.10 its tests are skipped with the reason.
# Usage: tools/oldest_python.sh [VENV]. Variables: PYTHON310.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv-3.10}
export UV_SYSTEM_CERTS=true
wanted=(requirements/oldest.txt pyproject.toml tools/oldest_python.sh)

up_to_date() {
    local file
    for file in "${wanted[@]}"; do [[ $venv/.installed -nt $file ]] || return 1; done
}

is_310() { [[ $("$1" -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null) == 3.10 ]]; }

find_python() {
    local candidate
    for candidate in "${PYTHON310:-}" python3.10 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.10.*/bin/python; do
        if [[ -n $candidate ]] && is_310 "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

if up_to_date; then exit 0; fi
if ! python=$(find_python); then
    echo "no Python 3.10 (PYTHON310 names one), so the tests that need it will be skipped" >&2
    exit 0
fi
uv=$(command -v uv || command -v .venv/bin/uv)
[[ -x $venv/bin/python ]] || "$uv" venv --quiet --python "$python" "$venv"
pip=("$uv" pip install --quiet --python "$venv/bin/python" --no-deps)
if ! { "${pip[@]}" --require-hashes --requirement requirements/oldest.txt && "${pip[@]}" --no-build-isolation --editable .; }; then
    echo "the launcher could not be installed for Python 3.10 in $venv, so its tests will be skipped" >&2
    rm -f "$venv/.installed"
    exit 0
fi
touch "$venv/.installed"
