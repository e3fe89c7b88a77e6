#!/bin/sh
# Simon Willison's llm in the shell. `pip install llm`
set -eu
: "${WORKER_ACCESS_KEY:?is not set: use your own key, or the one that make run printed}"

# llm reads its models from its own folder, "$(dirname "$(llm logs path)")". This script uses a
# temporary one. To keep the model, put the same lines there and run `llm keys set proxy`.
LLM_USER_PATH=$(mktemp -d)
export LLM_USER_PATH
trap 'rm -r "$LLM_USER_PATH"' EXIT
cat >"$LLM_USER_PATH/extra-openai-models.yaml" <<END
- model_id: proxy
  model_name: "${PROXY_MODEL:-@cf/meta/llama-3.1-8b-instruct-fast}"
  api_base: "${PROXY_URL:-http://127.0.0.1:8000}"
  api_key_name: proxy
  supports_tools: true
END

# Also: --no-stream, --usage, --tool llm_version, and `llm chat --model proxy`.
llm --model proxy --key "$WORKER_ACCESS_KEY" "${*:-Tell me a short story about a brave knight.}"
