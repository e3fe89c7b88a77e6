#!/usr/bin/env bash
# usage: scripts/install.sh ENVIRONMENT LOCK STAMP
# Installs what LOCK lists into ENVIRONMENT, which is made if need be, and touches STAMP.
set -euo pipefail
environment=$1 lock=$2 stamp=$3

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

find_python() {
    for name in ${PYTHON:-.venv/bin/python python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    fail 'Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3 ...'
}

if ! { mkdir -p "$environment" && [ -w "$environment" ]; } 2>/dev/null; then
    fail "$environment cannot be written: this folder is read-only, or somebody else's." \
        'Copy the project to a folder of your own.'
fi
# An environment without pip was left half made, or by another tool.
if ! "$environment/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null \
        || fail "$python cannot make environments. On Debian and Ubuntu: apt install python3-venv"
    echo "Making $environment with $python ..."
    "$python" -m venv --clear "$environment"
fi
echo "Installing what $lock lists into $environment ..."
# Without resolving: the locks are complete, and pip's resolver looks past a pin where an extra is
# asked for (coverage[toml]), so a new release on the index would break a fresh clone.
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
    --no-deps --require-hashes -r "$lock"
touch "$stamp"
