"""`deploy/`: nginx in front of gunicorn as shipped, and the unit as systemd reads it.

Skipped where nginx or systemd is not installed.
"""

import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import serving
from crowd import SLACK, answer_to, outcome, post, request, workers
from serving import DEADLINE, HOST, ROOT, Server, read_to_end, read_until, wait_until

from emulator import Emulator
from proxy.settings import Settings

SITE = ROOT / "deploy" / "nginx.conf"
UNIT = ROOT / "deploy" / "llm-proxy.service"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

MAIN = """\
{user}
daemon off;
pid {folder}/pid;
error_log stderr;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/sites-enabled/*;
}}
"""

# Debian's sites-available/default, without its comments and its page.
DEFAULT_SITE = """\
server {{
    listen {host}:{port} default_server;
    root {folder};
    server_name _;
    location / {{ return 404; }}
}}
"""
NAME = "llm-proxy.example.org"


@contextmanager
def nginx(proxy_port: int, folder: Path, *, is_alone: bool = True) -> Iterator[Server]:
    """The site as shipped, but for its ports, installed as on Debian. Alone it is the default."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    port = serving.free_port()
    site = SITE.read_text()
    for shipped, here in [
        ("127.0.0.1:8000;", f"{HOST}:{proxy_port};"),
        ("    listen 80;", f"    listen {HOST}:{port};"),
        ("    listen [::]:80;", ""),
    ]:
        assert site.count(shipped) == 1
        site = site.replace(shipped, here)
    (folder / "sites-enabled").mkdir()
    (folder / "sites-enabled" / "llm-proxy").write_text(site)
    if not is_alone:
        default = DEFAULT_SITE.format(folder=folder, host=HOST, port=port)
        (folder / "sites-enabled" / "default").write_text(default)
    user = "" if os.geteuid() else "user root;"  # else its workers may not enter the folder
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder, user=user))
    command = [str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with serving.started(command, port, {}, folder / "log", folder) as server:
        yield server


@pytest.fixture(scope="module")
def site(shipped: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with nginx(shipped.port, tmp_path_factory.mktemp("nginx")) as server:
        yield server


def test_an_answer_and_its_headers(site: Server) -> None:
    answer = answer_to(site, post("Hi", "X-Request-Id: mine-1"))
    assert (answer.status, outcome(answer)) == (200, "done")
    assert answer.headers["X-Request-Id"] == "mine-1"
    assert answer.headers.get_all("X-Provider-Request-Id")
    for path, status in [("/healthz", "ok"), ("/readyz", "ready")]:  # a balancer's
        assert json.loads(answer_to(site, get(path)).body)["status"] == status


def get(path: str) -> bytes:
    return request(b"", line=f"GET {path} HTTP/1.1")


def test_the_log_has_the_clients_address(shipped: Server, site: Server) -> None:
    """As nginx sees it, whatever the client claims."""
    address = (HOST, site.port)
    with socket.create_connection(address, DEADLINE, ("127.0.0.2", 0)) as connection:
        connection.sendall(post("Hi", "X-Forwarded-For: 192.0.2.1", "X-Request-Id: mine-2"))
        assert read_to_end(connection)
    wait_until(lambda: "mine-2" in shipped.log)
    (line,) = [json.loads(line) for line in shipped.log.splitlines() if "mine-2" in line]
    assert (line["client"], line["status"]) == ("127.0.0.2", 200)


@pytest.mark.parametrize("directive", ["[[stall=1]]", "[[silent]]"])
def test_a_token_passes_at_once_and_a_departure_too(
    site: Server, emulator: Emulator, directive: str
) -> None:
    """The provider stays silent after the first token: nothing else could push it out."""
    with site.connect() as connection:
        connection.sendall(post(directive, stream=True))
        wait_until(lambda: emulator.requests)
        if "stall" in directive:
            read_until(connection, b'"content":"This "')
    left = time.monotonic()
    assert emulator.requests[0].gone.wait(1 + SLACK)
    print(f"closed after {time.monotonic() - left:.2f} s")


def test_a_body_of_ten_megabytes(site: Server, emulator: Emulator) -> None:
    """The limit is the proxy's; only what is far over it nginx refuses by itself."""
    limit = Settings({}).max_request_bytes
    assert outcome(answer_to(site, post("[[words=5]] " + "x" * (limit - 1000)))) == "done"
    for size in (limit, limit + 2_000_000):
        assert outcome(answer_to(site, post("x" * size))) == "request_too_large"
    (received_by_provider,) = emulator.requests
    assert len(received_by_provider.body) > limit - 2000


@pytest.mark.parametrize(
    ("sent", "status", "code", "headers"),
    [
        (post("Hi", key="wrong"), 401, "invalid_api_key", {"WWW-Authenticate": "Bearer"}),
        (post("[[status=401]]"), 502, "provider_auth_failed", {"X-Should-Retry": "false"}),
        (
            post("[[status=429,code=3021,retry_after=7]]", stream=True),
            502,
            "provider_rate_limited",
            {"X-Should-Retry": "true", "Retry-After": "7"},
        ),
        (get("/"), 405, "method_not_allowed", {"Allow": "POST"}),
        (b"this is not HTTP\r\n\r\n", 400, "invalid_http", {}),
        (get("/" + "x" * 9000), 414, "invalid_http", {}),
        (post("Hi", 'X-Request-Id: "').replace(b"POST", b"TRACE"), 405, "invalid_http", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_are_json_with_their_headers(
    site: Server, sent: bytes, status: int, code: str, headers: dict[str, str]
) -> None:
    answer = answer_to(site, sent)
    assert (answer.status, outcome(answer)) == (status, code)
    assert {name: answer.headers[name] for name in headers} == headers
    (request_id,) = answer.headers.get_all("X-Request-Id") or []
    assert json.loads(answer.body)["error"]["message"].endswith(f"Request id: {request_id}")


def test_it_works_beside_debians_default_site(
    shipped: Server, emulator: Emulator, tmp_path: Path
) -> None:
    """nginx chooses by the name in the request; two sites of one name would only be a warning."""
    with nginx(shipped.port, tmp_path, is_alone=False) as server:
        ours = answer_to(server, post("Hi").replace(b"Host: proxy", f"Host: {NAME}".encode()))
        assert (ours.status, outcome(ours)) == (200, "done")
        other = answer_to(server, post("Hi"))
        assert (other.status, other.headers["Content-Type"]) == (404, "text/html")
        assert "conflicting server name" not in server.log
    assert len(emulator.requests) == 1


def test_a_proxy_that_is_down_may_be_tried_again(tmp_path: Path) -> None:
    with nginx(serving.free_port(), tmp_path) as server:
        answer = answer_to(server, post("Hi"))
    assert (answer.status, outcome(answer)) == (500, "internal_error")
    assert answer.headers["X-Should-Retry"] == "true"


def test_a_request_that_the_proxy_had_is_not_sent_twice(
    shipped: Server, site: Server, emulator: Emulator
) -> None:
    """Nor is the caller told to: it may be billed."""
    with site.connect() as connection:
        connection.sendall(post("[[silent]]"))
        wait_until(lambda: emulator.requests)
        wait_until(lambda: len(workers(shipped)) == 1)
        os.kill(*workers(shipped), signal.SIGKILL)
        (answer,) = serving.answers(read_to_end(connection))
    assert (answer.status, outcome(answer)) == (500, "internal_error")
    assert answer.headers["X-Should-Retry"] == "false"
    assert outcome(answer_to(site, post("Hi"))) == "done"
    assert len(emulator.requests) == 2


# --- what belongs together ------------------------------------------------------------------------


def number(text: str, setting: str) -> int:
    (line,) = [line for line in text.splitlines() if line.strip().startswith(setting)]
    return int(line.strip().removeprefix(setting).split(";")[0].strip(" =smM"))


def test_the_numbers_fit_the_proxys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRACEFUL_TIMEOUT", raising=False)
    site, unit = SITE.read_text(), UNIT.read_text()
    shipped = runpy.run_path(str(ROOT / "gunicorn.conf.py"))
    assert number(site, "keepalive_timeout") < shipped["keepalive"]
    assert number(site, "proxy_read_timeout") > Settings({}).timeouts.total
    assert number(site, "client_max_body_size") * 2**20 > Settings({}).max_request_bytes
    assert shipped["keepalive"] > 15  # seconds, for which aiohttp's clients keep a connection
    # A stop may begin when the grace of a reload has just begun.
    assert number(unit, "TimeoutStopSec") > 2 * shipped["graceful_timeout"]
    for line in ("LimitCORE=0", "OOMPolicy=continue"):
        assert f"\n{line}\n" in unit
    # A platform kills after 30 seconds, and a shell would keep the signal to itself.
    assert shipped["graceful_timeout"] < 30
    assert (ROOT / "Procfile").read_text().splitlines()[-1] == "web: gunicorn app:app"
    assert "max_requests" not in shipped  # each replacement is a gap, or a cut stream


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = UNIT.read_text().replace("/srv/llm-proxy/.venv/bin", str(Path(sys.executable).parent))
    copy = tmp_path / UNIT.name
    copy.write_text(unit.replace("/srv/llm-proxy", str(ROOT)))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True
    )
    assert result.returncode == 0
    assert UNIT.name not in result.stdout + result.stderr
