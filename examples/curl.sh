#!/bin/sh
# With curl: whole, streamed, and with a tool that the model may call.
set -eu
: "${WORKER_ACCESS_KEY:?is not set: the key that make run printed, or yours}"
PROXY_URL=${PROXY_URL:-http://127.0.0.1:8000}

# With --fail-with-body an error is a failure, and is shown all the same. No --retry: curl does not
# read X-Should-Retry, and would repeat what does not help, or what is billed again.
ask() {
    curl "$PROXY_URL" --silent --show-error --fail-with-body \
        --header "Authorization: Bearer $WORKER_ACCESS_KEY" \
        --header "Content-Type: application/json" \
        "$@"
}

echo "--- whole"
ask --data '{"messages": [{"role": "user", "content": "Name three rivers."}]}'

printf '\n\n--- streamed: each event as it comes (--no-buffer)\n'
ask --no-buffer --data '{
  "stream": true,
  "stream_options": {"include_usage": true},
  "messages": [{"role": "user", "content": "Name three rivers."}]
}'

echo "--- with a tool: the answer has tool_calls, for you to run"
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
