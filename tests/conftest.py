"""The emulator, and the proxy in front of it: in this process, and as gunicorn serves it."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import pytest
import serving
from flask.testing import FlaskClient

from emulator import Emulator
from proxy import connections, environment

environment.ENV_FILE = Path("/nonexistent/.env")  # `import app` reads it: not the developer's own
if sys.gettrace():  # by coverage, which rests later: it must see each module's import
    environment.in_use = {"LOG_LEVEL": "critical"}, []
    for module in ["app", *(module.name for module in walk_packages(["proxy"], "proxy."))]:
        import_module(module)
    environment.in_use = None

TRACER = pytest.StashKey[Any]()  # coverage's, if there is one
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


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Coverage's tracer doubles the time of all Python: it rests, but for tests that need it."""
    session.config.stash[TRACER] = sys.gettrace()
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _traced(request: pytest.FixtureRequest) -> Iterator[None]:
    """Trace a test unless its server is another process, or its input is random."""
    in_process = not {"running_proxy", "serve"} & {*request.fixturenames}
    if in_process and not hasattr(request.function, "hypothesis"):
        sys.settrace(request.config.stash[TRACER])
    yield
    sys.settrace(None)


@pytest.fixture(scope="session")
def running_emulator() -> Iterator[Emulator]:
    with Emulator() as emulator:
        yield emulator


@pytest.fixture
def emulator(running_emulator: Emulator) -> Iterator[Emulator]:
    """A provider that does as it is told, with no requests received yet."""
    running_emulator.clear()
    yield running_emulator
    running_emulator.clear()  # for tests that use a server and not this fixture


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
    """`with serve(env) as server:` is gunicorn as shipped."""
    return lambda env, *options, **more: serving.gunicorn(
        env, tmp_path_factory.mktemp("gunicorn") / "log", *options, **more
    )


@pytest.fixture(scope="session")
def shipped(serve: Serve, running_emulator: Emulator) -> Iterator[serving.Server]:
    """gunicorn with all its defaults, its own long deadlines too, in front of the emulator."""
    with serve(serving.settings(running_emulator.url)) as server:
        yield server


@pytest.fixture(scope="session")
def running_proxy(serve: Serve, running_emulator: Emulator) -> Iterator[serving.Server]:
    # What a test leaves open ends soon.
    more = {"LLAMA_PROVIDER_TIMEOUT": "3", "LLAMA_PROVIDER_IDLE_TIMEOUT": "3"}
    more |= {"LOG_LEVEL": "debug", "MAX_REQUEST_BYTES": "1000000"}
    with serve(serving.settings(running_emulator.url, **more)) as server:
        yield server
    for secret in (serving.KEY, serving.PROVIDER_KEY, serving.ACCOUNT):
        assert secret not in server.log  # after all that the tests did to it


@pytest.fixture
def proxy(running_proxy: serving.Server, emulator: Emulator) -> serving.Server:
    """gunicorn as shipped, in front of the emulator; one for all tests, logging all it can."""
    assert running_proxy.process.poll() is None, running_proxy.log
    return running_proxy
