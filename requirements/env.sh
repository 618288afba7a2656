#!/usr/bin/env bash
# A Python environment of the controller, from a hashed lock. Usage: env.sh DIRECTORY [LOCK], both below the clone, with
# PYTHON naming the interpreter. LOCK is requirements/controller.txt unless given.
set -euo pipefail
cd "$(dirname "$0")"
uv=../roles/prefect/files/locks/uv.txt
venv=$(realpath -m "../$1")
lock=../${2:-requirements/controller.txt}
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "env: $python is not Python 3.11 or newer; name one with: make env PYTHON=/path/to/python3" >&2
    exit 1
}
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "env: installing python3-venv, which $python lacks"
        install() { DEBIAN_FRONTEND=noninteractive apt-get install -qq -y python3-venv >/dev/null; }
        install || { apt-get update -qq && install; }
    else
        echo "env: $python has no venv module; install it (Debian: sudo apt-get install python3-venv) and run make again" >&2
        exit 1
    fi
fi

echo "env: installing ${lock#../} into $1"
"$venv/bin/python" -c '' 2>/dev/null || "$python" -m venv --clear --without-pip "$venv"
# pip is only needed to install uv, and runs from the wheel that Python brings along for new environments.
wheel=$("$python" -c '
import ensurepip, pathlib, sysconfig
place = sysconfig.get_config_var("WHEEL_PKG_DIR") or pathlib.Path(ensurepip.__file__).with_name("_bundled")
print(next(map(str, pathlib.Path(place).glob("pip-*.whl")), ""))')
[ -n "$wheel" ] || {
    echo "env: the ensurepip module of $python has no wheel of pip; name another Python with: make env PYTHON=/path/to/python3" >&2
    exit 1
}
pip() { PYTHONPATH="$wheel" "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet --no-compile --require-hashes --requirement "$uv"
# uv does not read pip's configuration: a mirror that pip was told of is handed on.
index=$(pip config get global.index-url 2>/dev/null || true)
[ -z "$index" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
UV_NATIVE_TLS=true "$venv/bin/uv" pip sync --quiet --python "$venv/bin/python" --require-hashes "$lock" "$uv"
if [ "$lock" = ../requirements/controller.txt ] && "$python" -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then
    echo "env: $python is Python 3.11, the last one of ansible-core 2.19, which is no longer maintained; for a newer Ansible," \
        "name Python 3.12 or newer: make env PYTHON=/path/to/python3"
fi
