"""The peer "naive": Flask and `requests.post`, as one writes it first; gunicorn's sync worker."""

import json
import os
import time
import uuid
from collections.abc import Iterator
from typing import Any

import requests
from flask import Flask, Response, jsonify, request

app = Flask(__name__)


def provider(body: dict[str, Any]) -> requests.Response:
    headers = {"Authorization": f"Bearer {os.environ['PROVIDER_KEY']}"}
    stream = bool(body.get("stream"))
    return requests.post(os.environ["URL"], json=body, headers=headers, stream=stream, timeout=60)


def head(kind: str) -> dict[str, Any]:
    answer_id = f"chatcmpl-{uuid.uuid4().hex}"
    return {"id": answer_id, "object": kind, "created": int(time.time()), "model": "llama"}


def events(answer: requests.Response) -> Iterator[str]:
    first = head("chat.completion.chunk")
    for line in answer.iter_lines():
        if line.startswith(b"data: {"):
            delta = {"content": json.loads(line[6:])["response"]}
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            yield f"data: {json.dumps({**first, 'choices': [choice]})}\n\n"
    yield "data: [DONE]\n\n"


@app.post("/")
def chat() -> Response | tuple[Response, int]:
    if request.headers.get("Authorization") != f"Bearer {os.environ['CLIENT_KEY']}":
        return jsonify(error="wrong key"), 401
    asked = request.get_json()
    if asked.get("stream"):
        answer = provider({"messages": asked["messages"], "stream": True})
        return Response(events(answer), content_type="text/event-stream")
    result = provider({"messages": asked["messages"]}).json()["result"]
    message = {"role": "assistant", "content": result["response"]}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return jsonify({**head("chat.completion"), "choices": [choice], "usage": result["usage"]})
