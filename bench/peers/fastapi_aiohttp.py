"""The peer "fastapi-aiohttp": the same job on asyncio, by hand and with care; one uvicorn worker.

It checks the key and the messages, and translates both ways; of what goes wrong it knows only the
plainest. So it is a lower bound for what this stack would cost.
"""

import hmac
import json
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

URL = os.environ["URL"]
AUTHORIZATION = f"Bearer {os.environ['CLIENT_KEY']}".encode()
HEADERS = {
    "Authorization": f"Bearer {os.environ['PROVIDER_KEY']}",
    "Content-Type": "application/json",
}


@asynccontextmanager
async def session(app: FastAPI) -> AsyncIterator[None]:
    limits: dict[str, Any] = {"connector": TCPConnector(limit=0), "timeout": ClientTimeout(60)}
    async with ClientSession(headers=HEADERS, **limits) as app.state.session:
        yield


async def chat(request: Request) -> Response:
    presented = request.headers.get("authorization", "").encode()
    if not hmac.compare_digest(presented, AUTHORIZATION):
        return JSONResponse({"error": "wrong key"}, 401)
    try:
        asked = json.loads(await request.body())
        messages, stream = asked["messages"], asked.get("stream") is True
        if not messages or not all(isinstance(message["content"], str) for message in messages):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        return JSONResponse({"error": "'messages' must be messages"}, 400)
    body = json.dumps({"messages": messages, **({"stream": True} if stream else {})})
    try:
        answer = await request.app.state.session.post(URL, data=body)
        if answer.status != 200:
            answer.close()
            return JSONResponse({"error": "the provider refused"}, 502)
        if stream:
            return StreamingResponse(events(answer), media_type="text/event-stream")
        async with answer:
            result = json.loads(await answer.read())["result"]
    except (ClientError, ValueError, KeyError):
        return JSONResponse({"error": "the provider failed"}, 502)
    message = {"role": "assistant", "content": result["response"]}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return JSONResponse(
        {**head("chat.completion"), "choices": [choice], "usage": result.get("usage")}
    )


async def events(answer: ClientResponse) -> AsyncIterator[bytes]:
    first = head("chat.completion.chunk")
    async with answer:
        yield chunk(first, {"role": "assistant"}, None)
        rest = b""
        async for piece in answer.content.iter_any():
            *lines, rest = (rest + piece).split(b"\n")
            said = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
            deltas = [{"content": event["response"]} for event in said if event["response"]]
            if deltas:
                yield b"".join(chunk(first, delta, None) for delta in deltas)
        yield chunk(first, {}, "stop") + b"data: [DONE]\n\n"


def head(kind: str) -> dict[str, Any]:
    answer_id = f"chatcmpl-{uuid.uuid4().hex}"
    return {"id": answer_id, "object": kind, "created": int(time.time()), "model": "llama"}


def chunk(first: dict[str, Any], delta: dict[str, Any], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return b"data: " + json.dumps({**first, "choices": [choice]}).encode() + b"\n\n"


app = FastAPI(lifespan=session, docs_url=None, redoc_url=None, openapi_url=None)
app.add_api_route("/", chat, methods=["POST"])
