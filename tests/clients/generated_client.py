"""The client that openapi-python-client made of docs/openapi.json; it prints what it saw as JSON.

usage: generated_client.py URL KEY MODEL, with the folder of `proxy_client` on the path
"""

import json
import sys

from proxy_client import AuthenticatedClient
from proxy_client.api.chat import create_chat_completion
from proxy_client.api.health import get_health
from proxy_client.api.models import get_model, list_models
from proxy_client.models import (
    BadRequestError,
    BadRequestErrorErrorCode,
    ChatCompletion,
    ChatRequest,
    ContentMessage,
    ContentMessageRole,
    Health,
    Model,
    ModelList,
)

url, key, model = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=key)
messages = [ContentMessage(role=ContentMessageRole.USER, content="Hi")]

answer = create_chat_completion.sync_detailed(client=client, body=ChatRequest(messages=messages))
completion = answer.parsed
assert isinstance(completion, ChatCompletion)
wrong = create_chat_completion.sync(
    client=client, body=ChatRequest(messages=messages, model="unknown")
)
assert isinstance(wrong, BadRequestError)
assert wrong.error.code is BadRequestErrorErrorCode.MODEL_NOT_ALLOWED
models = list_models.sync(client=client)
assert isinstance(models, ModelList)
one = get_model.sync(model, client=client)
assert isinstance(one, Model)
health = get_health.sync(client=client)
assert isinstance(health, Health)

seen = {
    "text": completion.choices[0].message.content,
    "finish": completion.choices[0].finish_reason,
    "tokens": completion.usage.total_tokens,
    "has_request_id": "X-Request-Id" in answer.headers,
    "code": wrong.error.code,
    "models": [each.id for each in models.data],
    "model": one.id,
    "health": health.status,
}
print(json.dumps(seen))
