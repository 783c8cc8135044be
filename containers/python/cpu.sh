#!/usr/bin/env bash
# The training stack for CPU into /opt/venv. Usage: cpu.sh DIRECTORY: the one with the requirements.
# The base's Python decides the release of Megatron Bridge: each release supports one. Needs nothing but PyPI;
# TORCH_INDEX names an index that serves torch without CUDA.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
requirements=${1:?usage: cpu.sh DIRECTORY}
version=$(python3 -c 'import sys; print(*sys.version_info[:2], sep=".")')
case $version in
    3.12) stack=cpu.txt ;;
    3.11) stack=bridge-0.3.1.txt ;;
    *)
        echo "Python $version of the base fits neither Megatron Bridge 0.6.2 (3.12) nor 0.3.1 (3.11)" >&2
        exit 1
        ;;
esac
echo "Python $version: requirements/$stack"
bash "$here/packages.sh" "$requirements/$stack"
if [[ -z ${TORCH_INDEX:-} ]]; then
    bash "$here/packages.sh" "$requirements/torch.txt"
else
    torch=$(sed -n 's/^torch==\([0-9.]*\).*/torch==\1/p' "$requirements/torch.txt")
    env -u PIP_NO_INDEX /opt/venv/bin/python3 -m pip --disable-pip-version-check install --no-deps --index-url "$TORCH_INDEX" "$torch"
fi
