"""Cases measured round after round, while there is time for one more; a line of JSON for each."""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping

from bench.measure import Figures, Found
from bench.processes import HERE

MINUTES = 7.5  # no run takes longer

Case = Callable[[], Found]
Rounds = dict[str, list[Figures]]  # by the name of the case


def measured(what: str, cases: Mapping[str, Case], most: int) -> Rounds:
    """What each case gave, in each round. BENCH_ROUNDS, or `most` of them, where time allows.

    What was measured before Ctrl-C, or before a target broke, is in the file.
    """
    rounds: Rounds = {name: [] for name in cases}
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    file = folder / time.strftime(f"{what}-%Y%m%d-%H%M%S.jsonl")
    print(f"each figure goes into {file}", flush=True)
    began, longest = time.monotonic(), 0.0
    for number in range(1, int(os.environ.get("BENCH_ROUNDS") or most) + 1):
        started = time.monotonic()
        if started + longest * 1.1 > began + MINUTES * 60:
            print(f"no time for round {number}", file=sys.stderr)
            break
        for name, case in cases.items():
            figures, errors = case()
            rounds[name].append(figures)
            line = {"case": name, "round": number, "errors": errors, **figures}
            with file.open("a") as lines:
                lines.write(json.dumps(line) + "\n")
            counts = ", ".join(f"{kind} {count}" for kind, count in errors.items())
            print(f"{time.monotonic() - began:4.0f} s  {number}  {name}  {counts}", flush=True)
        longest = max(longest, time.monotonic() - started)
    return rounds
