"""A stand-in for Workers AI and for an OpenAI-compatible API, over real HTTP.

It answers a newcomer who has no account (`python -m emulator`), and it misbehaves on demand
for tests and benchmarks (`with Emulator() as emulator:`), by directives in the last message
such as `[[wait=2,reset=middle]]`. Standard library only.

- answers: what a well-behaved provider says
- directives: how a request asks for misbehaviour
- faults: what the directives do, as steps on the wire
- server: the sockets
"""

from emulator.server import Emulator, Received

__all__ = ["Emulator", "Received"]
