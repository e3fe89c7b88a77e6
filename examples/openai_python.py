"""OpenAI's SDK for Python: a complete answer, a streamed one, and errors. `pip install openai`"""

import os
import sys

from openai import APIError, OpenAI

MODEL = os.environ.get("PROXY_MODEL", "@cf/meta/llama-3.1-8b-instruct-fast")
QUESTION = " ".join(sys.argv[1:]) or "Tell me a short story about a brave knight."

client = OpenAI(
    base_url=os.environ.get("PROXY_URL", "http://127.0.0.1:8000"),
    api_key=os.environ["WORKER_ACCESS_KEY"],
)

try:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}]
    )
    print(answer.choices[0].message.content)

    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        stream_options={"include_usage": True},
    )
    with stream:  # leaving the block closes the connection, so the model stops too
        for chunk in stream:
            if chunk.choices:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
            if chunk.usage:
                print(f"\n{chunk.usage.total_tokens} tokens")
except APIError as error:  # also raised if a stream fails in the middle
    print(f"{error.code or 'no answer'}: {error.message}", file=sys.stderr)
    sys.exit(1)
