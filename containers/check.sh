#!/usr/bin/env bash
# The last step of a build: import everything, write /etc/launcher/versions.json. Arguments go to versions.py.
# A build has no GPU and no driver. What links to the driver's libraries gets the toolkit's stubs, for this step alone.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for library in libcuda libnvidia-ml; do
    if ldconfig -p | grep -qF "$library.so.1"; then continue; fi
    for stub in /usr/local/cuda*/targets/*/lib/stubs/"$library.so" "/usr/local/cuda/lib64/stubs/$library.so"; do
        [[ ! -e $stub ]] || ln -sf "$stub" "$work/$library.so.1"
    done
done
export LD_LIBRARY_PATH=$work${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# The base's own Python, which does not see /opt/venv, says what the base brought: torch must still be that one.
PATH=${PATH#/opt/venv/bin:} \
    python3 "$here/versions.py" --only torch transformer-engine --require --output "$work/base.json"
python3 "$here/versions.py" --output /etc/launcher/versions.json --unchanged "$work/base.json" "$@"
