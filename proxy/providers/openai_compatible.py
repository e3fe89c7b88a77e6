"""Any API that speaks OpenAI's chat completions, POST {base}/chat/completions.

OpenAI itself, Anthropic's compatible endpoint, Ollama, vLLM, llama.cpp, Workers AI's own /ai/v1,
another proxy like this one.
"""

from proxy import strict_json
from proxy.chat_request import ChatRequest
from proxy.providers import ENDPOINT, Provider, UpstreamRequest


class OpenAICompatible(Provider):
    """The provider `openai`: it relays, with the model mapped and the answer completed."""

    name = "openai"
    request_id_header = "x-request-id"
    address_settings = "LLAMA_PROVIDER_BASE_URL and LLAMA_PROVIDER_MODELS"
    timeout = 600  # a reasoning model may think for minutes
    wrong_url = rf"{ENDPOINT}|/ai/run(/|$)|:11434(/api.*)?$"
    url_end = "must end before /chat/completions, as in /v1; for /ai/run use workers-ai"

    def request(self, chat: ChatRequest, model: str) -> UpstreamRequest:
        body = {**chat.options, "model": model, "messages": chat.messages}
        if chat.stream:
            asked = chat.options.get("stream_options", {})
            body |= {"stream": True, "stream_options": {**asked, "include_usage": True}}
        return UpstreamRequest(
            url=f"{self.base_url}/chat/completions",
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            body=strict_json.dumps(body),
        )
