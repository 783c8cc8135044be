#!/usr/bin/env bash
# Create the virtual environment VENV with the launcher, its development tools and the CPU training stack.
# Usage: tools/install.sh VENV. Variables: PYTHON, TORCH_INDEX (see the Makefile).
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:?usage: tools/install.sh VENV}
torch=2.13.0
# The certificates that this machine trusts, as pip does: sites with a proxy of their own need it.
export UV_SYSTEM_CERTS=true

is_312() { [[ $("$1" -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null) == 3.12 ]]; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.12 python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python; do
        if [[ -n $candidate ]] && is_312 "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    echo "error: no Python 3.12 was found on the PATH or among pyenv's. Install one, or name it: make install PYTHON=/path/to/python3.12" >&2
    exit 2
}

python=$(find_python)
echo "python: $python"
[[ -x $venv/bin/python ]] || "$python" -m venv "$venv"
# uv resolves nothing here, it only installs what the requirement files pin; where it is missing, pip brings it.
uv=$(command -v uv || true)
if [[ -z $uv ]]; then
    [[ -x $venv/bin/uv ]] || "$venv/bin/python" -m pip install --quiet uv
    uv=$venv/bin/uv
fi
pip=("$uv" pip install --quiet --python "$venv/bin/python" --no-deps)

"${pip[@]}" --require-hashes --requirement requirements/cpu.txt
if [[ -n ${TORCH_INDEX:-} ]]; then
    echo "torch: $torch alone, from TORCH_INDEX, without comparing a hash"
    "${pip[@]}" --index-url "$TORCH_INDEX" "torch==$torch"
else
    echo "torch: $torch with its CUDA libraries (2.6 GB; TORCH_INDEX names another index, see the Makefile)"
    "${pip[@]}" --require-hashes --requirement requirements/torch.txt
fi
"${pip[@]}" --editable .
# Byte code now, not in the first run: importing Megatron Bridge without it takes many times as long.
"$venv/bin/python" -m compileall -q -j 0 "$venv"/lib/python3.12/site-packages/megatron >/dev/null 2>&1 || true
echo "installed: $venv/bin/launcher"
