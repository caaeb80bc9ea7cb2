"""The pages for people: the runs at `GET /`, and one run at `GET /ui/runs/{run_id}`."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from flask import Blueprint, Flask, Response, abort, current_app, send_file

from .access.access import declares

# The pages may load what this gateway serves, and nothing else; they hold no inline script or
# style.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_FILES = Path(__file__).parents[1] / "ui"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

blueprint = Blueprint("ui", __name__)


def init_app(app: Flask) -> None:
    """Serve the pages. Only files that are there now are served."""
    found = (path for path in _FILES.rglob("*") if path.suffix in _TYPES)
    app.extensions["tailrace.ui"] = {path.relative_to(_FILES).as_posix(): path for path in found}
    app.register_blueprint(blueprint)


@blueprint.get("/")
@declares("open")
def runs() -> Response:
    """Answer the page of all runs. It holds no secret; what it reads needs a token."""
    return _page("runs.html")


@blueprint.get("/ui/runs/<run_id>")
@declares("open")
def run(run_id: str) -> Response:
    """Answer the page of one run, whether or not there is such a run."""
    return _page("run.html")


@blueprint.get("/ui/assets/<path:name>")
@declares("open")
def asset(name: str) -> Response:
    """Answer a file of the pages; a browser may keep it, and asks whether it is new."""
    files = cast(Mapping[str, Path], current_app.extensions["tailrace.ui"])
    if name not in files:
        abort(404)
    return send_file(files[name], mimetype=_TYPES[files[name].suffix])


def _page(name: str) -> Response:
    response = send_file(_FILES / name, mimetype="text/html")
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response
