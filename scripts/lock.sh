#!/usr/bin/env bash
# Writes the locks, which pip installs with hashes, from the lists in pyproject.toml. What is locked
# stays at its version; UPGRADE=1 takes the newest that fit.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

lock() {
    .venv/bin/uv pip compile --quiet ${UPGRADE:+--upgrade} --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' "$@"
}

lock pyproject.toml --output-file requirements.txt
# The tests run the proxy, on the versions that it is shipped with.
lock pyproject.toml --group test --constraint requirements.txt --output-file requirements/test.txt
for group in clients bench audit; do
    lock --group "$group" --output-file "requirements/$group.txt"
done
# No group for LiteLLM: uv resolves all groups together, and it needs an older gunicorn. It also
# pins releases of these two that were never on the index, or not yet.
echo 'litellm[proxy] == 1.109.1' \
    | lock - --override <(printf '%s\n' certifi litellm-proxy-extras) \
        --output-file requirements/litellm.txt

for folder in tests/clients bench/peers; do
    (cd "$folder" && npm install --package-lock-only --omit-lockfile-registry-resolved)
done
