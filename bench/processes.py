"""Starting, pinning and ending processes, and what one and its children cost."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.load import HOST

ROOT = Path(__file__).parent.parent
HERE = Path(__file__).parent
_TICK = os.sysconf("SC_CLK_TCK")

CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE, LOAD_CORE = CORES[:1], CORES[-1:]


class NotReady(Exception):
    """It cannot be measured; the message says what to do."""


@contextmanager
def process(
    command: Sequence[str | Path],
    env: Mapping[str, str],
    cwd: Path | None,
    files: Mapping[Path, Mapping[str, object]],
    cores: list[int],
) -> Iterator[subprocess.Popen[bytes]]:
    """Run it on these cores to the end of the block; what it printed is shown if that fails.

    It runs in `cwd`, or in a new folder, with `files`, in which names between two @ are filled in.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, open(f"{folder}/log", "wb") as log:
        for file, names in files.items():
            Path(folder, file.name).write_text(_filled(file.read_text(), names))
        with _pinned(cores):
            child = subprocess.Popen(
                command,
                cwd=cwd or folder,
                env=os.environ | env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us alone, and its children end with it
            )
        try:
            yield child
        except Exception:
            sys.stderr.write(Path(log.name).read_text(errors="replace")[-2000:])
            raise
        finally:
            _end(child)


def _filled(text: str, names: Mapping[str, object]) -> str:
    return re.sub("@([A-Z_]+)@", lambda found: str(names[found[1]]), text)


def _end(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(3)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@contextmanager
def _pinned(cores: list[int]) -> Iterator[None]:
    """What is started here stays on these cores: a child has its parent's."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str, advice: str) -> str:
    """The path of a program; Debian keeps servers where only root looks. Raises NotReady."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise NotReady(f"{name} is missing: {advice}")
    return found


# --- what it costs ----------------------------------------------------------------------------


def cpu(pid: int) -> float:
    """Seconds, user and system, of the process and all its children, those that ended too."""
    return sum(sum(map(int, _stat(each)[11:15])) for each in tree(pid)) / _TICK


def memory(pid: int) -> float:
    """MiB in RAM, of the process and its children at their highest, each with what they share."""
    statuses = [Path(f"/proc/{each}/status").read_text() for each in tree(pid)]
    return sum(int(status.partition("VmHWM:")[2].split()[0]) for status in statuses) / 1024


def tree(pid: int) -> list[int]:
    """The process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in tree(int(child)))]


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
