"""JSON values made by chance, the same at each run."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any


def values(count: int, atoms: Sequence[Any], names: Sequence[str]) -> Iterator[Any]:
    """Values of these atoms, up to four levels deep; the keys of objects are of these names."""
    random = Random(count)  # noqa: S311 (no secret)

    def value(levels: int) -> Any:
        kind = random.choice(("atom", "list", "object", "object")) if levels else "atom"
        size = random.randrange(5)
        if kind == "list":
            return [value(levels - 1) for _ in range(size)]
        if kind == "object":
            return {random.choice(names): value(levels - 1) for _ in range(size)}
        return random.choice(atoms)

    for _ in range(count):
        yield value(random.randrange(5))
