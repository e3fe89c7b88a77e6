"""Structured output: the answer as a Pydantic object. `pip install openai`"""

import os
import sys

from openai import OpenAI
from pydantic import BaseModel


class River(BaseModel):
    name: str
    length_km: int
    countries: list[str]


client = OpenAI(
    base_url=os.environ.get("PROXY_URL", "http://127.0.0.1:8000"),
    api_key=os.environ["WORKER_ACCESS_KEY"],
)
answer = client.chat.completions.parse(
    model=os.environ.get("PROXY_MODEL", "@cf/meta/llama-3.1-8b-instruct-fast"),
    messages=[{"role": "user", "content": " ".join(sys.argv[1:]) or "Name a river."}],
    response_format=River,
)
print(answer.choices[0].message.parsed)
