#!/usr/bin/env bash
# Create a second virtual environment with an older Megatron Bridge, for the tests that compare releases. It has what that
# Bridge needs on CPU and not the launcher: only launcher/job runs there. Where there is no Python 3.11 those tests are
# skipped with the reason.
# Usage: tools/old_bridge.sh [VENV]. Variables: PYTHON311, TORCH_INDEX (see the Makefile).
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv-bridge-0.3.1}
export UV_SYSTEM_CERTS=true
wanted=(requirements/bridge-0.3.1.txt requirements/torch.txt tools/old_bridge.sh)

up_to_date() {
    local file
    for file in "${wanted[@]}"; do [[ $venv/.installed -nt $file ]] || return 1; done
}

is_311() { [[ $("$1" -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null) == 3.11 ]]; }

find_python() {
    local candidate
    for candidate in "${PYTHON311:-}" python3.11 /usr/bin/python3.11 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.11.*/bin/python; do
        if [[ -n $candidate ]] && is_311 "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

if up_to_date; then exit 0; fi
if ! python=$(find_python) && command -v apt-get >/dev/null && [[ $(id -u) == 0 ]]; then
    { apt-get update && apt-get install -y --no-install-recommends python3.11; } >/dev/null 2>&1 || true
fi
if ! python=$(find_python); then
    echo "no Python 3.11 (PYTHON311 names one), so the tests of Megatron Bridge 0.3.1 will be skipped" >&2
    exit 0
fi
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
uv=$(command -v uv || command -v .venv/bin/uv) || {
    for pip in .venv/bin/python "$python" python3; do
        if "$pip" -m pip install --quiet --target "$tools" uv 2>/dev/null; then break; fi
    done
    uv=$tools/bin/uv
}
version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' requirements/torch.txt)
pip=("$uv" pip install --quiet --python "$venv/bin/python" --no-deps)
if [[ -n ${TORCH_INDEX:-} ]]; then
    torch=(--index-url "$TORCH_INDEX" "torch==$version")
else
    torch=(--require-hashes --requirement requirements/torch.txt)
fi
echo "python: $python, for Megatron Bridge 0.3.1 in $venv"
# Not `python -m venv`: Debian's Python lacks what that needs.
if ! { "$uv" venv --quiet --allow-existing --python "$python" "$venv" &&
    "${pip[@]}" --require-hashes --requirement requirements/bridge-0.3.1.txt && "${pip[@]}" "${torch[@]}"; }; then
    echo "Megatron Bridge 0.3.1 could not be installed in $venv, so its tests will be skipped" >&2
    rm -f "$venv/.installed"
    exit 0
fi
"$venv/bin/python" -m compileall -q -j 0 "$venv"/lib/python3.11/site-packages/megatron >/dev/null 2>&1 || true
touch "$venv/.installed"
