"""A two-tier LLM proxy: OpenAI's chat completions in front of Workers AI or any compatible API."""

__version__ = "1.0.0"
