#!/usr/bin/env bash
# usage: scripts/node.sh FOLDER
# Installs what FOLDER/package-lock.json lists. Where npm is missing, what needs it is skipped.
set -euo pipefail
cd "$1"
if ! command -v npm >/dev/null; then
    echo "npm is missing: what needs $1/package-lock.json will be skipped"
    exit
fi
echo "Installing what $1/package-lock.json lists ..."
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error

# Portkey answers each stream with 500 on these Nodes ("TypeError: immutable"): the headers of what
# it fetched cannot be changed, a copy of them can.
portkey=node_modules/@portkey-ai/gateway/build/start-server.js
if [ -f "$portkey" ]; then
    sed -i 's/:new Response(p,e)}const Ad/:new Response(p,{status:e.status,headers:new Headers(e.headers)})}const Ad/' "$portkey"
fi
touch node_modules/done
