"""Two plots for docs/performance.md."""

import statistics
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.measure import Figures
from bench.processes import ROOT
from bench.report import Column

# Text as text, and no date or random name, so that a plot changes only where its figures do.
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9})

Series = list[list[Figures]]  # for each place on the axis, the figures of all rounds


def streams(counts: list[int], series: Series) -> None:
    """docs/growth-streams.svg: memory, CPU and delay, by open streams."""
    panels = {
        "RSS MiB": "memory_mb",
        "CPU µs a token": "token_cpu_us",
        "TTFT added, p99 ms": "ttft_p99_ms",
    }
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axes, (title, name) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        _line(axes, counts, series, name)
        axes.set(title=title, xlabel="open streams, one worker")
        _logarithmic(axes, counts)
        if name == "memory_mb":  # it does not grow tenfold: what it begins with is most of it
            axes.set(yscale="linear", ylim=(0, None))
    _save(figure, "growth-streams")


def sizes(lines: Mapping[str, tuple[Mapping[str, int], Series]]) -> None:
    """docs/growth-sizes.svg: CPU by the size of the request, and of the answer."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for label, (places, series) in lines.items():
        _line(axes, list(places.values()), series, "request_cpu_ms", label=f"of the {label}")
    axes.set(title="CPU ms a request", xlabel="KB")
    _logarithmic(axes, [10**power for power in range(3, 8)], unit=1000)
    axes.legend()
    _save(figure, "growth-sizes")


def _logarithmic(axes: Any, places: list[int], unit: int = 1) -> None:
    """Both axes, labelled with plain numbers."""
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(places, [f"{place // unit:,}" for place in places], rotation=45)
    low, high = axes.get_ylim()
    steps = [step * 10**power for power in range(5) for step in (1, 2, 3, 5)]
    shown = [step for step in steps if low <= step <= high]
    axes.set_yticks(shown, [f"{step:,}" for step in shown])
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def _line(axes: Any, places: list[int], series: Series, name: str, **style: str) -> None:
    """Medians, with bars from the least to the most; a place without a figure is left out."""
    column = Column("", name)
    found = [(place, column.values(rounds)) for place, rounds in zip(places, series, strict=True)]
    drawn = [(place, statistics.median(vs), min(vs), max(vs)) for place, vs in found if vs]
    xs, ys = [place for place, *_ in drawn], [middle for _, middle, *_ in drawn]
    bars = [[y - low for _, y, low, _ in drawn], [high - y for _, y, _, high in drawn]]
    axes.errorbar(xs, ys, yerr=bars, marker="o", markersize=3, capsize=2, **style)


def _save(figure: Figure, name: str) -> None:
    path = ROOT / "docs" / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None})
    print(f"drawn: {path.relative_to(ROOT)}")
