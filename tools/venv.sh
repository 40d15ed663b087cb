#!/usr/bin/env bash
# Usage: tools/venv.sh PYTHON VENV LOCK
# Makes VENV when there is none, installs exactly what LOCK names (hashes checked), and links this checkout into
# it. Debian splits venv from python3: as root the missing package is installed, else the line is printed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 venv=$2 lock=$3

say() { printf 'venv: %s\n' "$*" >&2; }

need_python() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
    say "needs Python 3.11 or newer as '$python'. Install it (apt-get install python3 python3-venv), or: make PYTHON=/path/to/python3"
    exit 1
}

need_venv() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "python3-venv is missing: apt-get install -y python3-venv"
        apt-get install -y -qq python3-venv >/dev/null && return
    fi
    say "python3-venv is missing. Run: sudo apt-get install python3-venv   then this command again"
    exit 1
}

need_python
if [ ! -x "$venv/bin/python" ]; then
    need_venv
    say "making $venv"
    "$python" -m venv "$venv"
fi
say "installing $lock ($(grep -c '==' "$lock") locked versions)"
"$venv/bin/python" -m pip install --quiet --require-hashes --no-deps -r "$lock"
# Each time, not only the first: a checkout that has a new package folder must be linked anew.
"$venv/bin/python" -m pip install --quiet --no-build-isolation --no-deps -e .
