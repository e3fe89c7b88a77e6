"""Cloudflare Workers AI over REST, POST {base}/{model}.

https://developers.cloudflare.com/workers-ai/models/ has the schema of each model's input.
"""

from proxy import strict_json
from proxy.chat_request import ChatRequest
from proxy.providers import ENDPOINT, Provider, UpstreamRequest
from proxy.strict_json import JSON

# What its models accept; some refuse a body with any other key (5006).
_ACCEPTED = """
max_tokens temperature top_p top_k seed repetition_penalty frequency_penalty presence_penalty stop
tools tool_choice parallel_tool_calls response_format logit_bias logprobs top_logprobs
reasoning_effort chat_template_kwargs lora
"""
_OPTIONS = set(_ACCEPTED.split())
_UNDERSTOOD = _OPTIONS | {"max_completion_tokens", "n", "stream_options"}
_MESSAGE_KEYS = ("tool_calls", "tool_call_id", "name", "function_call")

# https://developers.cloudflare.com/changelog/post/2026-05-08-planned-model-deprecations/
_WITHDRAWN = """
@cf/meta/llama-3-8b-instruct @cf/meta/llama-3-8b-instruct-awq @cf/meta/llama-3.1-8b-instruct
@cf/meta/llama-3.1-8b-instruct-awq @cf/meta/llama-3.1-70b-instruct
@cf/meta/llama-2-7b-chat-int8 @cf/meta/llama-2-7b-chat-fp16 @hf/meta-llama/meta-llama-3-8b-instruct
@cf/mistral/mistral-7b-instruct-v0.1 @hf/mistral/mistral-7b-instruct-v0.2 @hf/google/gemma-7b-it
@cf/google/gemma-3-12b-it @cf/microsoft/phi-2 @hf/nousresearch/hermes-2-pro-mistral-7b
@cf/defog/sqlcoder-7b-2
"""


class WorkersAI(Provider):
    """The provider `workers-ai`."""

    name = "workers-ai"
    request_id_header = "cf-ai-req-id"
    address_settings = "CLOUDFLARE_ACCOUNT_ID and LLAMA_PROVIDER_BASE_URL"
    token_limit = 256  # its default for max_tokens since 2025-02-21
    relays_unknown = False
    timeout = 130  # Cloudflare itself gives up at 120
    default_base_url = "https://api.cloudflare.com/client/v4/accounts/{account}/ai/run"
    default_models = "@cf/meta/llama-3.1-8b-instruct-fast"
    needs_key = True
    wrong_url = rf"/@|/ai/run/.|{ENDPOINT}|/compat$|//(api|dash)[.]cloudflare[.]com/(?!.*/run$)"
    url_end = "must end in /ai/run, before the model; OpenAI's form needs LLAMA_PROVIDER=openai"
    # It goes into the path: no segment may begin with a dot, or `..` would leave /ai/run.
    model_name = "@?[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*"
    withdrawn = frozenset(_WITHDRAWN.split())

    def request(self, chat: ChatRequest, model: str) -> UpstreamRequest:
        body = {"messages": [_message(message) for message in chat.messages], **_options(chat)}
        if chat.stream and "response_format" not in body:  # they do not go together there
            body["stream"] = True
        return UpstreamRequest(
            url=f"{self.base_url}/{model}",
            headers={"Authorization": f"Bearer {self.key}"},
            body=strict_json.dumps(body),
            ignored=chat.options.keys() - _UNDERSTOOD,
        )


def _message(message: JSON) -> JSON:
    """Text parts become one string, null a refusal or an empty one: some models need a string."""
    content = message.get("content")
    if content is None:
        content = message.get("refusal") or ""
    elif isinstance(content, list) and all(part["type"] == "text" for part in content):
        content = "".join(part["text"] for part in content)
    role = "system" if message["role"] == "developer" else message["role"]
    more = {name: message[name] for name in _MESSAGE_KEYS if message.get(name) not in (None, [])}
    return {"role": role, "content": content, **more}


def _options(chat: ChatRequest) -> JSON:
    given = {name: value for name, value in chat.options.items() if value not in ([], {})}
    options = {name: given[name] for name in given if name in _OPTIONS}
    if chat.options.get("tools") == []:  # these are refused without tools
        options.pop("tool_choice", None)
        options.pop("parallel_tool_calls", None)
    if chat.max_tokens:
        options["max_tokens"] = chat.max_tokens
    match options.get("response_format", {}):
        case {"type": "text"}:  # not known there
            del options["response_format"]
        case {"json_schema": {"schema": dict() as schema}} as json_mode:  # the bare one is
            options["response_format"] = json_mode | {"json_schema": schema}
    return options
