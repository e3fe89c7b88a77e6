"""LangChain: a complete answer and a streamed one. `pip install langchain-openai`"""

import os
import sys

from langchain_openai import ChatOpenAI

QUESTION = " ".join(sys.argv[1:]) or "Tell me a short story about a brave knight."

model = ChatOpenAI(
    base_url=os.environ.get("PROXY_URL", "http://127.0.0.1:8000"),
    api_key=os.environ["WORKER_ACCESS_KEY"],
    model=os.environ.get("PROXY_MODEL", "@cf/meta/llama-3.1-8b-instruct-fast"),
    stream_usage=True,  # LangChain does not ask for token counts if base_url is set
)

answer = model.invoke(QUESTION)
print(answer.text)

for chunk in model.stream(QUESTION):
    print(chunk.text, end="", flush=True)
    if chunk.usage_metadata:
        print(f"\n{chunk.usage_metadata['total_tokens']} tokens")
