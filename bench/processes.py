"""Starting, pinning and ending processes, and what one and its children cost."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.load import HOST

ROOT = Path(__file__).parent.parent
HERE = Path(__file__).parent
CLIENT_KEY = "bench-tier1-Rw5yN8kTe2Zq"
PROVIDER_KEY = "bench-tier2-Hj3vM7cXa9Ls"
MODEL = "@cf/meta/llama-3.1-8b-instruct-fast"
RUN_PATH = "/client/v4/accounts/bench/ai/run"
_TICK = os.sysconf("SC_CLK_TCK")

CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE, LOAD_CORE = CORES[:1], CORES[-1:]


class NotReady(Exception):
    """It cannot be measured; the message says what to do."""


@contextmanager
def process(
    command: list[str],
    *,
    port: int,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    files: tuple[Path, ...] = (),
    cores: list[int] = PROXY_CORE,
    **more: str,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run it, on these cores, to the end of the block; what it printed is shown if that fails.

    `files` are put into its folder, and the names between two @ filled in there, in its command and
    in its environment; `more` are names besides those that all have.
    """
    names = {
        "PORT": str(port),
        "CLIENT_KEY": CLIENT_KEY,
        "PROVIDER_KEY": PROVIDER_KEY,
        "MODEL": MODEL,
        "PATH": f"{RUN_PATH}/{MODEL}",
        "ROOT": str(ROOT),
        **more,
    }

    def filled(text: str) -> str:
        return re.sub("@([A-Z_]+)@", lambda found: names.get(found[1], found[0]), text)

    with tempfile.TemporaryDirectory(prefix="bench-") as folder, open(f"{folder}/log", "wb") as log:
        names["FOLDER"] = folder
        for file in files:
            Path(folder, file.name).write_text(filled(file.read_text()))
        with _pinned(cores):
            child = subprocess.Popen(
                [filled(part) for part in command],
                cwd=cwd or folder,
                env=os.environ | {name: filled(value) for name, value in (env or {}).items()},
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
    """Where it is; Debian keeps servers where only root looks. Raises NotReady."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise NotReady(f"{name} is missing: {advice}")
    return found


@contextmanager
def stand_in() -> Iterator[int]:
    """The provider, on the core of the load; gives its port. Raises NotReady."""
    nginx, port = program("nginx", "apt install nginx"), free_port()
    told = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=True).stderr
    path = re.search(r"--modules-path=(\S+)", told)
    modules = path[1] if path else "modules"
    if not Path(modules, "ngx_http_lua_module.so").exists():
        raise NotReady("nginx has no Lua: apt install libnginx-mod-http-lua")
    files = (HERE / "stand_in" / "nginx.conf", HERE / "stand_in" / "answer.lua")
    command = [nginx, "-p", "@FOLDER@/", "-c", "nginx.conf", "-e", "stderr"]
    with process(command, port=port, files=files, cores=LOAD_CORE, MODULES=modules) as child:
        while not _listens(port):
            if child.poll() is not None:
                raise NotReady("the stand-in for the provider does not start")
            time.sleep(0.01)
        yield port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


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
