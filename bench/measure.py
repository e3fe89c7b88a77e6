"""The scenarios: from a target to its figures.

Each begins with a new process, so that none pays for what another left behind.
"""

import statistics
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.load import run
from bench.processes import cpu, memory
from bench.targets import Running, Target, running

Figures = dict[str, float | None]
Found = tuple[Figures, Counter[str]]  # and how many errors of which kind there were

FIRST = 0.2  # seconds from the request to the first token of a slow stream


@dataclass
class Cost:
    """What a load cost its target; None for the stand-in, which is nobody's proxy."""

    seconds: float | None = None
    memory: float | None = None

    def of_each(self, number: int) -> float | None:
        """Microseconds of CPU."""
        return None if self.seconds is None or not number else self.seconds / number * 1e6


@contextmanager
def costing(process: Running) -> Iterator[Cost]:
    """What the process spends in the block."""
    cost, before = Cost(), cpu(process.pid) if process.pid else 0.0
    yield cost
    if process.pid:
        cost.seconds, cost.memory = cpu(process.pid) - before, memory(process.pid)


def percentile(values: list[float], share: float, *, unit: float = 1e-3) -> float | None:
    """The percentile of the values (seconds), in units of `unit` seconds; None without a value."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] / unit if ordered else None


def measure(target: Target, direct: Target) -> Found:
    """One round of all scenarios."""
    figures: Figures = {}
    errors: Counter[str] = Counter()
    starts = []
    for scenario in (requests, in_flight, streams, flat_out):
        with running(target) as process:
            target.verify()
            found, wrong = scenario(target, process, direct)
        figures |= found
        errors += wrong
        starts.append(process.start)
    known = [seconds for seconds in starts if seconds is not None]
    figures["start_s"] = statistics.median(known) if known else None
    return figures, errors


def requests(target: Target, process: Running, direct: Target) -> Found:
    """Whole answers, as fast as they come: to one client, and to 32 at once."""
    ask = target.ask(size=900)
    run(ask, clients=32, seconds=0.5, deadline=3)  # the first requests are slower everywhere
    floor = run(direct.ask(size=900), clients=1, seconds=1, deadline=3)
    alone = run(ask, clients=1, seconds=1.5, deadline=4)
    with costing(process) as cost:
        many = run(ask, clients=32, seconds=3, deadline=8)
    p50, least = (percentile(tally.answered, 0.5, unit=1e-6) for tally in (alone, floor))
    figures = {
        "request_cpu_us": cost.of_each(many.good),
        "added_us": p50 - least if p50 and least else None,
        "requests_per_s": many.good / many.elapsed if many.good else 0,
    }
    return figures, alone.errors + many.errors


def in_flight(target: Target, process: Running, _direct: Target) -> Found:
    """500 clients at once, of a provider that thinks for a second: 4,000 answers in 8.5 s."""
    with costing(process) as cost:
        tally = run(target.ask("[[wait=1]]", size=900), clients=500, times=8, deadline=8.5)
    return {"in_flight_share": tally.good / 4000, "memory_mb": cost.memory}, tally.errors


def streams(target: Target, process: Running, _direct: Target) -> Found:
    """300 streams at the pace of a model, begun within two seconds, and 300 after them."""
    ask = target.ask(f"[[tokens=100,first={FIRST},gap=0.02]]", tokens=100)
    with costing(process) as cost:
        tally = run(ask, clients=300, times=2, stagger=2, deadline=9.5)
    added = [seconds - FIRST for seconds in tally.first]
    figures = {
        "streams_finished": tally.good,
        "ttft_p50_ms": percentile(added, 0.5),
        "ttft_p99_ms": percentile(added, 0.99),
        "transit_p50_ms": percentile(tally.transit, 0.5),
        "transit_p99_ms": percentile(tally.transit, 0.99),
        "token_cpu_us": cost.of_each(len(tally.transit)),
        "streams_memory_mb": cost.memory,
    }
    return figures, tally.errors


def flat_out(target: Target, process: Running, _direct: Target) -> Found:
    """8 streams from a provider without any delay."""
    with costing(process) as cost:
        tally = run(target.ask("[[tokens=500]]", tokens=500), clients=8, seconds=2.5, deadline=5)
    tokens = len(tally.transit)
    speed = tokens / tally.elapsed if tokens else 0
    return {"tokens_per_s": speed, "flat_out_cpu_us": cost.of_each(tokens)}, tally.errors
