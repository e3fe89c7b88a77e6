"""`make soak`: half an hour at half capacity, with 5 % faults, and nothing may grow.

The emulator, gunicorn as shipped (one worker) and the clients are processes of their own. Every
request's outcome must be the one that its directive predicts; once in a while the clients pause,
and the worker's memory and descriptors are read. SOAK_MINUTES, and SOAK_RATE (requests a second;
without it, half of what was measured first), say how long and how much.
"""

import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
HOST = "127.0.0.1"
KEY = "soak-tier1-Qm4xV9cT2hLw"
CLIENTS = 16
CALIBRATION = 10.0  # seconds
SAMPLES = 30  # pauses, evenly spread
FAULTS = 0.05
GROWTH = 1.05  # of the memory after the warm-up, at most
SPARE_DESCRIPTORS = 3  # above the most that the warm-up saw

# What is asked in the last message -> how that must end, without streaming and with it.
GOOD = {
    "Tell me a short story about a brave knight.": ("200", "done"),
    "[[words=200]] At length, please.": ("200", "done"),
    "[[framing=close]] Hi": ("200", "done"),
    "[[first=0.2]] Hi": ("200", "done"),
}
BAD = {
    "[[reset=before]] Hi": ("502 provider_failed", "502 provider_failed"),
    "[[reset=headers]] Hi": ("502 provider_failed", "502 provider_failed"),
    "[[reset=middle]] Hi": ("502 provider_failed", "cut provider_failed"),
    "[[close=before]] Hi": ("502 provider_failed", "502 provider_failed"),
    "[[close=middle]] Hi": ("502 provider_failed", "cut provider_failed"),
    "[[garbage]] Hi": ("502 provider_failed", "502 provider_failed"),
    "[[junk]] Hi": ("502 provider_bad_answer", "cut provider_bad_answer"),
    "[[silent]] Hi": ("502 provider_timeout", "502 provider_timeout"),
    "[[framing=chunked,stall=1]] Hi": ("502 provider_timeout", "cut provider_timeout"),
    "[[drip_headers=0.1]] Hi": ("502 provider_timeout", "502 provider_timeout"),
    "[[huge=9000000]] Hi": ("502 provider_bad_answer", "502 provider_bad_answer"),
    "[[gzip=9000000]] Hi": ("502 provider_bad_answer", "502 provider_bad_answer"),
    "[[status=401]] Hi": ("502 provider_auth_failed", "502 provider_auth_failed"),
    "[[status=429]] Hi": ("502 provider_overloaded", "502 provider_overloaded"),
    "[[status=500]] Hi": ("502 provider_failed", "502 provider_failed"),
    "[[status=413]] Hi": ("400 context_length_exceeded", "400 context_length_exceeded"),
    "[[redirect=302]] Hi": ("502 provider_bad_answer", "502 provider_bad_answer"),
    "LEAVE [[wait=1]] Hi": ("left", "left"),
}


class Sample(NamedTuple):
    """What the worker holds while nobody asks."""

    minutes: float
    answered: int
    memory: float  # MiB
    descriptors: int


class Clients:
    """Threads that ask at a steady rate, and count how each request ended."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.rate = 0.0  # requests a second, of all; 0: as many as can be
        self.outcomes: Counter[str] = Counter()
        self.unexplained: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._go = threading.Event()
        self._idle = [threading.Event() for _ in range(CLIENTS)]
        for idle in self._idle:
            threading.Thread(target=self._run, args=(idle,), daemon=True).start()

    def run(self, seconds: float, rate: float) -> float:
        """Ask for so long, and then wait for all answers; returns the answers a second."""
        before, started, self.rate = self.outcomes.total(), time.monotonic(), rate
        for idle in self._idle:
            idle.clear()
        self._go.set()
        time.sleep(seconds)
        self._go.clear()
        for idle in self._idle:
            idle.wait()
        return (self.outcomes.total() - before) / (time.monotonic() - started)

    def _run(self, idle: threading.Event) -> None:
        while True:
            if not self._go.is_set():
                idle.set()
            self._go.wait()
            started = time.monotonic()
            self._one()
            if self.rate:
                mean = CLIENTS / self.rate
                pause = random.uniform(0, 2 * mean)  # noqa: S311
                time.sleep(max(0.0, started + pause - time.monotonic()))

    def _one(self) -> None:
        stream = random.random() < 0.5  # noqa: S311
        table = BAD if random.random() < FAULTS else GOOD  # noqa: S311
        prompt = random.choice([*table])  # noqa: S311
        expected = {**GOOD, **BAD}[prompt][stream]
        try:
            outcome = _ask(self.port, prompt, stream)
        except (OSError, HTTPException, ValueError) as error:
            outcome = f"torn: {error!r}"
        with self._lock:
            self.outcomes[outcome] += 1
            if outcome != expected:
                mode = "stream" if stream else "whole"
                self.unexplained[f"{prompt} ({mode}): expected {expected}, got {outcome}"] += 1


def _ask(port: int, prompt: str, stream: bool) -> str:
    """How a request ended, in a word or two."""
    body = json.dumps({"messages": [{"role": "user", "content": prompt}], "stream": stream})
    with closing(HTTPConnection(HOST, port, timeout=60)) as connection:
        connection.request("POST", "/", body, {"Authorization": f"Bearer {KEY}"})
        if prompt.startswith("LEAVE"):
            return "left"
        response = connection.getresponse()
        answer = response.read()
    if response.status != 200:
        return f"{response.status} {json.loads(answer)['error']['code']}"
    if not stream:
        return "200" if json.loads(answer)["choices"][0]["message"]["content"] else "empty"
    last = answer.removesuffix(b"\n\n").rpartition(b"data: ")[2]
    return "done" if last == b"[DONE]" else f"cut {json.loads(last)['error']['code']}"


# --- the processes ----------------------------------------------------------------------------


@contextmanager
def _process(command: list[str], env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,  # a line in the log for each request
        start_new_session=True,  # Ctrl-C is for us alone
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _await_port(port: int) -> None:
    for _ in range(600):
        with suppress(OSError), socket.create_connection((HOST, port), timeout=5):
            return
        time.sleep(0.05)
    sys.exit(f"nothing listens on port {port}")


def _settings(port: int, provider_port: int) -> dict[str, str]:
    base = f"http://{HOST}:{provider_port}/client/v4/accounts/soak/ai/run"
    return {
        "PORT": str(port),
        "WEB_CONCURRENCY": "1",
        "WORKER_ACCESS_KEY": KEY,
        "WORKER_ACCESS_KEYS": "",
        "LLAMA_PROVIDER": "workers-ai",
        "LLAMA_PROVIDER_API_KEY": "soak-tier2-Ub7nK3pYd6Gf",
        "LLAMA_PROVIDER_BASE_URL": base,
        "LLAMA_PROVIDER_MODELS": "",
        "LLAMA_PROVIDER_TIMEOUT": "3",
        "LLAMA_PROVIDER_IDLE_TIMEOUT": "3",
        "LLAMA_PROVIDER_TOTAL_TIMEOUT": "30",
        "LOG_LEVEL": "info",
        "RATE_LIMIT": "",
        "RATE_LIMIT_STORAGE": "",
    }


def _worker(master: int) -> Path:
    """The worker's folder in /proc; there is one child."""
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return Path("/proc") / children[0]


def _sample(worker: Path, started: float, answered: int) -> Sample:
    status = (worker / "status").read_text()
    kilobytes = int(status.partition("VmRSS:")[2].split()[0])
    minutes = (time.monotonic() - started) / 60
    return Sample(minutes, answered, kilobytes / 1024, len(os.listdir(worker / "fd")))


# --- the run ----------------------------------------------------------------------------------


def _verdict(samples: list[Sample], unexplained: Counter[str]) -> list[str]:
    """What went wrong, a line each."""
    fifth = max(1, len(samples) // 5)
    warm, later = samples[:fifth], samples[fifth:]
    first, last = (statistics.median(s.memory for s in part) for part in (later[:3], later[-3:]))
    print(f"memory after the warm-up {first:.1f} MiB, at the end {last:.1f} MiB")
    most = max(sample.descriptors for sample in warm)
    wrong = [f"unexplained, {number} times: {what}" for what, number in unexplained.items()]
    if last > first * GROWTH:
        wrong.append(f"memory grew by {100 * (last / first - 1):.1f} %")
    if max(sample.descriptors for sample in later) > most + SPARE_DESCRIPTORS:
        wrong.append(f"descriptors grew over the {most} of the warm-up")
    return wrong


def main() -> int:
    """The exit status: 0 where nothing grew and nothing was unexplained."""
    seconds = 60 * float(os.environ.get("SOAK_MINUTES") or 30)
    port, provider_port = _free_port(), _free_port()
    emulator = ["emulator", "--port", str(provider_port), "--gap", "0.005"]
    with (
        _process(emulator, {}),
        _process(["gunicorn", "app:app"], _settings(port, provider_port)) as master,
    ):
        _await_port(provider_port)
        _await_port(port)
        clients = Clients(port)
        rate = float(os.environ.get("SOAK_RATE") or 0)
        if not rate:
            rate = clients.run(CALIBRATION, 0) / 2
        worker, started, samples = _worker(master.pid), time.monotonic(), []
        print(f"{seconds / 60:g} minutes at {rate:.0f} requests a second", flush=True)
        print("minutes  answered  memory/MiB  descriptors", flush=True)
        for number in range(1, SAMPLES + 1):
            clients.run(started + seconds * number / SAMPLES - time.monotonic(), rate)
            sample = _sample(worker, started, clients.outcomes.total())
            samples.append(sample)
            print("{:7.1f}  {:8d}  {:10.1f}  {:11d}".format(*sample), flush=True)
            with closing(HTTPConnection(HOST, provider_port)) as connection:
                connection.request("DELETE", "/requests")  # the emulator keeps all it was asked
                connection.getresponse().read()
        lived = worker == _worker(master.pid)
    for outcome, count in clients.outcomes.most_common():
        print(f"{count:8d}  {outcome}")
    wrong = _verdict(samples, clients.unexplained) + ["the worker died"] * (not lived)
    print("\n".join(wrong) or "nothing grew, and nothing was unexplained")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
