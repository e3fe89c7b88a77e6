"""A stand-in for Workers AI and for an OpenAI-compatible API, over real HTTP.

`make run` and `python -m emulator` use it without an account. Tests and benchmarks use it too
(`with Emulator() as emulator:`): directives in the last message, such as `[[wait=2,reset=middle]]`,
make it misbehave. Standard library only.

- answers: the content of a normal answer
- schema: an instance of a JSON schema, for structured output and tool calls
- directives: how a request asks for misbehaviour
- faults: what each directive does
- server: the HTTP server
"""

from emulator.server import Emulator, Received

__all__ = ["Emulator", "Received"]
