"""From the figures of some rounds to tables in Markdown."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from bench.measure import Figures

_NONE = "-"
Rounds = Mapping[str, Sequence[Figures]]  # by what was measured


class Column(NamedTuple):
    """A figure and how it is written."""

    title: str
    name: str
    form: str = "z,.0f"

    def values(self, rounds: Sequence[Figures]) -> list[float]:
        return [value for figures in rounds if (value := figures.get(self.name)) is not None]

    def median(self, rounds: Sequence[Figures]) -> float | None:
        values = self.values(rounds)
        return statistics.median(values) if values else None

    def written(self, *numbers: float | None) -> str:
        known = [format(number, self.form) for number in numbers if number is not None]
        return " to ".join(known) or _NONE


COLUMNS = [
    Column("CPU µs a request", "request_cpu_us"),
    Column("added at 1 client, p50 µs", "added_us"),
    Column("500 in flight, of ideal", "in_flight_share", ".3f"),
    Column("RSS MiB then", "memory_mb"),
    Column("300 streams: finished of 600", "streams_finished"),
    Column("TTFT added p50 ms", "ttft_p50_ms", "z,.1f"),
    Column("p99 ms", "ttft_p99_ms", ",.0f"),
    Column("CPU µs a token", "token_cpu_us", ".1f"),
    Column("tokens/s flat out", "tokens_per_s"),
    Column("start s", "start_s", ".2f"),
]


def tables(rounds: Rounds, yardstick: str) -> str:
    """The medians; what they lie between; and their ratios to those of one row."""

    def least_to_most(column: Column, figures: Sequence[Figures]) -> str:
        values = column.values(figures)
        return column.written(*((min(values), max(values)) if values else ()))

    def ratio(column: Column, figures: Sequence[Figures]) -> str:
        value, one = column.median(figures), column.median(rounds[yardstick])
        return f"{value / one:.2f}" if value is not None and one else _NONE

    parts = {
        "Medians": table(rounds, COLUMNS),
        "From the least to the most": table(rounds, COLUMNS, least_to_most),
        f"Medians, as multiples of those of {yardstick}": table(rounds, COLUMNS, ratio),
    }
    return "\n\n".join(f"{title}:\n\n{text}" for title, text in parts.items())


def table(
    rounds: Rounds,
    columns: list[Column],
    cell: Callable[[Column, Sequence[Figures]], str] = lambda column, figures: column.written(
        column.median(figures)
    ),
) -> str:
    """A row for each, in Markdown; medians, where nothing else is said."""
    head = ["", *(column.title for column in columns)]
    rows = [[name, *(cell(column, rounds[name]) for column in columns)] for name in rounds]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])
