#!/bin/sh
# curl: a complete answer, a streamed one, and one with a tool that the model may call.
set -eu
: "${WORKER_ACCESS_KEY:?is not set: use your own key, or the one that make run printed}"
PROXY_URL=${PROXY_URL:-http://127.0.0.1:8000}

# --fail-with-body: an error response is shown, and curl exits with 22. Do not add --retry: curl does
# not read X-Should-Retry, so it would repeat requests in vain, or requests that are billed twice.
ask() {
    curl "$PROXY_URL" --silent --show-error --fail-with-body \
        --header "Authorization: Bearer $WORKER_ACCESS_KEY" \
        --header "Content-Type: application/json" \
        "$@"
}

echo "--- complete"
ask --data '{"messages": [{"role": "user", "content": "Name three rivers."}]}'

printf '\n\n--- streamed: each event as it arrives (--no-buffer)\n'
ask --no-buffer --data '{
  "stream": true,
  "stream_options": {"include_usage": true},
  "messages": [{"role": "user", "content": "Name three rivers."}]
}'

echo "--- with a tool: the answer has tool_calls, which your code would run"
ask --data '{
  "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
  "tools": [{
    "type": "function",
    "function": {
      "name": "weather",
      "description": "The weather in a city, now",
      "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"]
      }
    }
  }]
}'
echo
