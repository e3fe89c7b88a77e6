"""The emulator, and the proxy in front of it: in this process, and as gunicorn serves it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path

import pytest
import serving
from flask.testing import FlaskClient

from emulator import Emulator
from proxy import connections, environment

environment.ENV_FILE = Path("/nonexistent/.env")  # `import app` reads it: not the developer's own

Serve = Callable[..., AbstractContextManager[serving.Server]]


@pytest.fixture(scope="session", autouse=True)
def _one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Applications made here trust one of the usual authorities: to load all takes 20 ms each."""
    usual, end = Path(connections.DEFAULT_CA_BUNDLE_PATH), "-----END CERTIFICATE-----\n"
    (bundle := tmp_path_factory.mktemp("ca") / "one.pem").write_text(
        usual.read_text().partition(end)[0] + end
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "DEFAULT_CA_BUNDLE_PATH", str(bundle))
        yield


@pytest.fixture(autouse=True)
def _untraced(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test of a server in another process covers nothing here, and tracing doubles its time."""
    tracer = sys.gettrace() if {"running_proxy", "serve"} & {*request.fixturenames} else None
    if tracer:
        sys.settrace(None)
    yield
    if tracer:
        sys.settrace(tracer)


@pytest.fixture(scope="session")
def running_emulator() -> Iterator[Emulator]:
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def emulator(running_emulator: Emulator) -> Emulator:
    """A provider that does as it is told, with no requests received yet."""
    running_emulator.clear()
    return running_emulator


@pytest.fixture
def env(emulator: Emulator) -> dict[str, str]:
    """Settings for Workers AI, played by the emulator."""
    return serving.settings(emulator.url)


@pytest.fixture
def client(env: dict[str, str]) -> FlaskClient:
    """The application without a server around it."""
    from app import create_app

    return create_app(env).test_client()


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """`with serve(env) as server:` is gunicorn as shipped; it must end well too."""
    numbers = count()

    def start(env: dict[str, str], **options: object) -> AbstractContextManager[serving.Server]:
        log_file = tmp_path_factory.mktemp("gunicorn") / f"{next(numbers)}.log"
        return serving.gunicorn(env, log_file, **options)  # type: ignore[arg-type]

    return start


@pytest.fixture(scope="session")
def running_proxy(serve: Serve, running_emulator: Emulator) -> Iterator[serving.Server]:
    more = {
        "LOG_LEVEL": "debug",
        "MAX_REQUEST_BYTES": "1000000",
        "LLAMA_PROVIDER_IDLE_TIMEOUT": "3",  # what a test leaves open ends soon
        "LLAMA_PROVIDER_TIMEOUT": "3",
    }
    with serve(serving.settings(running_emulator.url, **more)) as server:
        yield server
    for secret in (serving.KEY, serving.PROVIDER_KEY, serving.ACCOUNT):
        assert secret not in server.log  # after all that the tests did to it


@pytest.fixture
def proxy(running_proxy: serving.Server, emulator: Emulator) -> serving.Server:
    """gunicorn as shipped, in front of the emulator; one for all tests, logging all it can."""
    assert running_proxy.process.poll() is None, running_proxy.log
    return running_proxy
