"""LangChain's ChatOpenAI: for each line of JSON, what to do, it prints a line: what it saw."""

import json
import sys
import time
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_openai import ChatOpenAI

Seen = dict[str, Any]


def invoke(model: Any, said: str, seen: Seen) -> None:
    finish(seen, model.invoke(said))


def stream(model: Any, said: str, seen: Seen) -> None:
    whole = None
    for chunk in model.stream(said):
        seen["text"] += chunk.text
        whole = chunk if whole is None else whole + chunk
    finish(seen, whole)


def abort_stream(model: Any, said: str, seen: Seen) -> None:
    for chunk in model.stream(said):
        seen["text"] += chunk.text
        if len(seen["text"]) > 10:
            break


def finish(seen: Seen, message: BaseMessage) -> None:
    seen["text"] = message.text
    seen["finish"] = message.response_metadata["finish_reason"]
    seen["calls"] = [(call["name"], call["args"]) for call in message.tool_calls]
    usage = message.usage_metadata
    names = ("input_tokens", "output_tokens", "total_tokens")
    seen["usage"] = usage and [usage[name] for name in names]


VERBS = {"invoke": invoke, "stream": stream, "abort_stream": abort_stream}

for line in sys.stdin:
    case = json.loads(line)
    settings = {"base_url": case["url"], "api_key": case["key"], "model": case["model"]}
    model: Any = ChatOpenAI(**settings | case.get("settings", {}))
    if "tools" in case:
        model = model.bind_tools(case["tools"])
    seen: Seen = {"text": ""}
    began = time.monotonic()
    try:
        VERBS[case["verb"]](model, case["said"], seen)
    except Exception as error:
        seen["error"] = {"class": type(error).__name__, "message": str(error)}
        seen["error"]["status"] = getattr(error, "status_code", None)
        for key in ("code", "param", "request_id"):
            seen["error"][key] = getattr(error, key, None)
    seen["seconds"] = time.monotonic() - began
    print(json.dumps(seen), flush=True)
