"""How the cost grows: with open streams, with the size of requests and answers, with workers."""

from collections import Counter
from functools import partial

from bench import plot
from bench.load import run
from bench.measure import FIRST, Figures, Found, costing, flat_out, percentile, requests, streams
from bench.processes import CORES
from bench.report import Column, table
from bench.rounds import Case, Rounds, measured
from bench.targets import Target, ours, running

STREAMS = (1, 10, 100, 500, 1000, 2000)
SIZES = {"1 KB": 10**3, "10 KB": 10**4, "100 KB": 10**5, "1 MB": 10**6}
BODIES = SIZES | {"10 MB": 10**7}
ANSWERS = SIZES | {"8 MB": 8 * 10**6}

_STREAM_COLUMNS = [
    Column("asked", "asked"),
    Column("finished", "streams_finished"),
    Column("RSS MiB", "memory_mb"),
    Column("of the core, %", "core_percent", ".1f"),
    Column("CPU µs a token", "token_cpu_us", ".1f"),
    Column("TTFT added p50 ms", "ttft_p50_ms", ",.1f"),
    Column("p99 ms", "ttft_p99_ms", ",.1f"),
    Column("a token's way, p99 ms", "transit_p99_ms", ",.1f"),
]
_SIZE_COLUMNS = [
    Column("CPU ms a request", "request_cpu_ms", ",.2f"),
    Column("added at 1 client, p50 ms", "added_ms", ",.2f"),
    Column("RSS MiB", "memory_mb"),
]
_WORKER_COLUMNS = [
    Column("requests/s", "requests_per_s"),
    Column("CPU µs a request", "request_cpu_us"),
    Column("tokens/s flat out", "tokens_per_s"),
    Column("300 streams: finished of 600", "streams_finished"),
    Column("TTFT added p50 ms", "ttft_p50_ms", ",.1f"),
    Column("p99 ms", "ttft_p99_ms", ",.1f"),
    Column("RSS MiB then", "streams_memory_mb"),
]


def main(direct: Target) -> None:
    """Measure, print the tables, draw the plots."""
    groups: dict[str, tuple[list[Column], dict[str, Case]]] = {
        "Open streams, 5 tokens a second each": (
            _STREAM_COLUMNS,
            {
                **{f"{n:,}": partial(_open_streams, direct, n) for n in STREAMS},
                "2,000, on two workers": partial(_open_streams, direct, 2000, workers=2),
            },
        ),
        "Size of the request": (
            _SIZE_COLUMNS,
            {f"body of {n}": partial(_size, direct, body=s) for n, s in BODIES.items()},
        ),
        "Size of the answer": (
            _SIZE_COLUMNS,
            {f"answer of {n}": partial(_size, direct, answer=s) for n, s in ANSWERS.items()},
        ),
        "Workers; the second is on the core of the load": (
            _WORKER_COLUMNS,
            {"one": partial(_workers, direct, 1), "two": partial(_workers, direct, 2)},
        ),
    }
    cases = {name: case for _, group in groups.values() for name, case in group.items()}
    rounds = measured("growth", cases, most=2)
    for title, (columns, group) in groups.items():
        print(f"\n{title}:\n\n{table({name: rounds[name] for name in group}, columns)}")
    _draw(rounds)


def _draw(rounds: Rounds) -> None:
    open_streams = [rounds[f"{count:,}"] for count in STREAMS]
    plot.streams(list(STREAMS), open_streams)
    bodies = [rounds[f"body of {name}"] for name in BODIES]
    answers = [rounds[f"answer of {name}"] for name in ANSWERS]
    plot.sizes({"request": (BODIES, bodies), "answer": (ANSWERS, answers)})


def _open_streams(direct: Target, count: int, workers: int = 1) -> Found:
    """So many at once: begun 250 a second, each open for 12 seconds; what waits is let wait."""
    target = ours(direct, workers)
    ask = target.ask(f"[[tokens=60,first={FIRST},gap=0.2]]", tokens=60)
    with running(target, CORES[:workers]) as process, costing(process) as cost:
        tally = run(ask, clients=count, times=1, stagger=count / 250, deadline=45)
    added = [seconds - FIRST for seconds in tally.first]
    figures: Figures = {
        "asked": tally.asked,
        "streams_finished": tally.good,
        "memory_mb": cost.memory,
        "core_percent": 100 * (cost.seconds or 0) / tally.elapsed,
        "token_cpu_us": cost.of_each(len(tally.transit)),
        "ttft_p50_ms": percentile(added, 0.5),
        "ttft_p99_ms": percentile(added, 0.99),
        "transit_p99_ms": percentile(tally.transit, 0.99),
    }
    return figures, tally.errors


def _size(direct: Target, body: int = 0, answer: int = 0) -> Found:
    """One client, one request after the other, with so large a body or answer."""
    target, marker = ours(direct), f"[[size={answer}]]"
    floor = run(direct.ask(marker, padding=body, size=answer), clients=1, seconds=0.5, deadline=5)
    ask = target.ask(marker, padding=body, size=answer)
    with running(target) as process, costing(process) as cost:
        tally = run(ask, clients=1, seconds=2.5, deadline=10)
    each = cost.of_each(tally.good)
    p50, least = (percentile(tally.answered, 0.5) for tally in (tally, floor))
    figures = {
        "request_cpu_ms": each and each / 1e3,
        "added_ms": p50 - least if p50 and least else None,
        "memory_mb": cost.memory,
    }
    return figures, tally.errors


def _workers(direct: Target, count: int) -> Found:
    figures: Figures = {}
    errors: Counter[str] = Counter()
    target = ours(direct, count)
    for scenario in (requests, streams, flat_out):
        with running(target, CORES[:count]) as process:
            found, wrong = scenario(target, process, direct)
        figures |= found
        errors += wrong
    return figures, errors
