"""`python -m bench`: the targets side by side; with `all`, those too that take long to install.

`python -m bench growth`: how the proxy's cost grows.
"""

import gc
import os
import resource
import signal
import sys
from functools import partial
from types import FrameType

from bench import growth
from bench.measure import measure
from bench.processes import CORES, LOAD_CORE, NotReady
from bench.report import tables
from bench.rounds import MINUTES, measured
from bench.targets import Target, ours, ours_over_https, slow_to_install, stand_in, usual_peers

DESCRIPTORS = 5000  # of ours, and of each target


def main(arguments: list[str]) -> int:
    """The exit status."""
    try:
        _prepare()
        with stand_in() as direct:
            if arguments == ["growth"]:
                growth.main(direct)
            else:
                _compare(direct, also_slow=arguments == ["all"])
    except NotReady as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: ended before its time", file=sys.stderr)
        return 130
    return 0


def _compare(direct: Target, *, also_slow: bool) -> None:
    targets = [direct, ours(direct), ours_over_https(direct), *usual_peers(direct)]
    if also_slow:
        targets += slow_to_install(direct)
    cases = {target.name: partial(measure, target, direct) for target in targets}
    print(f"\n{tables(measured('targets', cases, most=3), yardstick='ours')}")


def _prepare() -> None:
    """Raises NotReady."""
    if len(CORES) < 2:
        raise NotReady("two cores are needed, one for the proxy and one for the load")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        raise NotReady(f"{DESCRIPTORS} open files are needed, and {hard} allowed: ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
    os.sched_setaffinity(0, LOAD_CORE)
    gc.disable()  # it would stop the clients now and then
    for sent in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(sent, _interrupt)
    signal.alarm(int(MINUTES * 60 + 20))  # a target that is stuck


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
