#!/usr/bin/env bash
# What is installed is what was locked, and no .pth file runs at every start of Python. Known
# vulnerabilities are reported and do not fail the run: a new one may come on any day.
set -euo pipefail
cd "$(dirname "$0")/.."
runtime=.venv-runtime
rm -rf "$runtime"
scripts/install.sh "$runtime" requirements.txt "$runtime/done"
if find "$runtime" -name '*.pth' ! -name distutils-precedence.pth | grep .; then
    echo 'A .pth file that should not be there.' >&2
    exit 1
fi
packages=$("$runtime/bin/python" -m pip list --disable-pip-version-check --format=freeze \
    | grep -vcE '^(pip|setuptools)=')
echo "requirements.txt: $packages packages, no stray .pth file"
{
    scripts/install.sh .venv-audit requirements/audit.txt .venv-audit/done \
        && .venv-audit/bin/pip-audit --disable-pip --require-hashes --progress-spinner off \
            --timeout 10 -r requirements.txt
} || echo 'pip-audit: see above; a report, no gate'
