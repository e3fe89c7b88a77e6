#!/usr/bin/env bash
# Installs the servers that some tests talk to. Without them those tests are skipped, and say so.
set -euo pipefail
if command -v nginx >/dev/null && command -v redis-server >/dev/null; then
    exit
fi
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
{
    $sudo apt-get -qq update && $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends nginx redis-server
} >/dev/null 2>&1 || echo 'nginx and redis-server could not be installed: their tests will be skipped'
