#!/usr/bin/env bash
# Writes requirements/run.txt and requirements/dev.txt anew: exact versions with the hashes of every file, and
# no host's name, so any mirror serves. `run` is what `make demo` installs; `dev` adds tests and benchmarks and
# is resolved under the versions of `run`, so that both fit in one .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=.cache/lock/bin/uv
if [ ! -x "$uv" ]; then
    python3 -m venv .cache/lock
    .cache/lock/bin/pip install --quiet 'uv>=0.13,<1'
fi

compile() {
    UV_CUSTOM_COMPILE_COMMAND="make lock" "$uv" pip compile --quiet --universal --python-version 3.11 \
        --generate-hashes --no-emit-index-url --no-emit-find-links --upgrade "$@"
}

compile pyproject.toml requirements/build.in --extra hive -o requirements/run.txt
compile pyproject.toml --extra hive --extra storage --extra dev --extra bench -c requirements/run.txt -o requirements/dev.txt
if grep -nE 'https?://|--(extra-)?index-url|--find-links' requirements/run.txt requirements/dev.txt; then
    echo "lock: an address got into a lock file (lines above); locks name versions and hashes only" >&2
    exit 1
fi
