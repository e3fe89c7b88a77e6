"""Whether this process is alive, and whether it can serve: for balancers and supervisors.

No key is asked, and the provider is never: what it last did is told by the calls that were made.
"""

from flask import Blueprint, Response, g

from proxy import answers
from proxy.errors import OperatorError
from proxy.routes import Proxy

blueprint = Blueprint("health", __name__)


@blueprint.before_request
def begin() -> None:
    """Probes come every few seconds: their lines are for debugging only."""
    g.entry.is_probe = True


def healthz() -> Response:
    """GET: it answers, so it is alive."""
    return answers.whole({"status": "ok"})


def readyz() -> Response:
    """GET: 503 while misconfigured; else how the provider's last call in this process ended."""
    proxy = Proxy.current()
    if proxy.config.problems:
        raise OperatorError.not_ready()
    last = proxy.last_call
    called = last and {"outcome": last.provider_outcome, "age_seconds": round(last.age, 1)}
    return answers.whole({"status": "ready", "provider": called})


for view in (healthz, readyz):
    blueprint.add_url_rule(f"/{view.__name__}", view_func=view, provide_automatic_options=False)
