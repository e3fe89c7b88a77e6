"""A two-tier LLM proxy: OpenAI's chat completions in front of Workers AI or any compatible API."""
