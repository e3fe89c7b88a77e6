"""Cloudflare Workers AI over REST, POST {base}/{model}.

https://developers.cloudflare.com/workers-ai/models/ has the schema of each model's input.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from proxy import strict_json
from proxy.chat_request import ChatRequest
from proxy.providers import UpstreamRequest
from proxy.strict_json import JSON

# What its models accept; some refuse a body with any other key (5006).
# fmt: off
_OPTIONS = {
    "max_tokens", "temperature", "top_p", "top_k", "seed",
    "repetition_penalty", "frequency_penalty", "presence_penalty", "stop", "tools",
    "tool_choice", "parallel_tool_calls", "response_format", "logit_bias", "logprobs",
    "top_logprobs", "reasoning_effort", "chat_template_kwargs", "lora",
}
# fmt: on
_UNDERSTOOD = _OPTIONS | {"max_completion_tokens", "n", "stream_options"}
_OF_TOOLS = {"tool_choice", "parallel_tool_calls"}  # they are refused without tools
_MESSAGE_KEYS = ("tool_calls", "tool_call_id", "name", "function_call")
_NAME = re.compile("[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class WorkersAI:
    """The provider `workers-ai`."""

    base_url: str
    key: str = field(repr=False)
    models: Mapping[str, tuple[str, ...]]  # Workers AI's names, which go into the path

    name: ClassVar[str] = "workers-ai"
    request_id_header: ClassVar[str] = "cf-ai-req-id"
    address_settings: ClassVar[str] = "CLOUDFLARE_ACCOUNT_ID and LLAMA_PROVIDER_BASE_URL"
    token_limit: ClassVar[int] = 256  # its default for max_tokens since 2025-02-21
    relays_unknown: ClassVar[bool] = False

    def request(self, chat: ChatRequest, model: str) -> UpstreamRequest:
        body: JSON = {"messages": [_message(message) for message in chat.messages]}
        given = {name: value for name, value in chat.options.items() if value != []}
        if chat.options.get("tools") == []:
            given = {k: v for k, v in given.items() if k not in _OF_TOOLS}
        body |= {name: value for name, value in given.items() if name in _OPTIONS}
        if chat.max_tokens:
            body["max_tokens"] = chat.max_tokens
        json_mode = _unwrap_response_format(body)
        if chat.stream and not json_mode:  # they do not go together there
            body["stream"] = True
        names = sorted(filter(_NAME.fullmatch, chat.options.keys() - _UNDERSTOOD))
        return UpstreamRequest(
            url=f"{self.base_url}/{model}",
            headers={"Authorization": f"Bearer {self.key}"},
            body=strict_json.dumps(body),
            ignored=tuple(names[:20]),
        )


def _message(message: JSON) -> JSON:
    """Text parts become one string, null an empty one: some models refuse anything else."""
    content = message.get("content")
    if content is None:
        content = ""
    elif isinstance(content, list) and all(part["type"] == "text" for part in content):
        content = "".join(part["text"] for part in content)
    role = "system" if message["role"] == "developer" else message["role"]
    more = {name: message[name] for name in _MESSAGE_KEYS if message.get(name) not in (None, [])}
    return {"role": role, "content": content, **more}


def _unwrap_response_format(body: JSON) -> bool:
    """Whether JSON is asked for. Its json_schema is the bare schema; plain text is not known."""
    wanted = body.get("response_format", {})
    if wanted.get("type") == "text":
        del body["response_format"]
        return False
    schema = wanted.get("json_schema")
    if isinstance(schema, dict) and isinstance(schema.get("schema"), dict):
        body["response_format"] = wanted | {"json_schema": schema["schema"]}
    return bool(wanted)
