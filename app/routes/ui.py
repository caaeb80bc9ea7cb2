"""The pages for people: the runs at `GET /`, and one run at `GET /ui/runs/{run_id}`."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from flask import Blueprint, Flask, Response, current_app

from .access.access import declares
from .page_files import TYPES, send_asset, send_page

_FILES = Path(__file__).parents[1] / "ui"

blueprint = Blueprint("ui", __name__)


def init_app(app: Flask) -> None:
    """Serve the pages. Only files that are there now are served."""
    found = (path for path in _FILES.rglob("*") if path.suffix in TYPES)
    app.extensions["tailrace.ui"] = {path.relative_to(_FILES).as_posix(): path for path in found}
    app.register_blueprint(blueprint)


@blueprint.get("/")
@declares("open")
def runs() -> Response:
    """Answer the page of all runs. It holds no secret; what it reads needs a token."""
    return send_page(_FILES / "runs.html")


@blueprint.get("/ui/runs/<run_id>")
@declares("open")
def run(run_id: str) -> Response:
    """Answer the page of one run, whether or not there is such a run."""
    return send_page(_FILES / "run.html")


@blueprint.get("/ui/assets/<path:name>")
@declares("open")
def asset(name: str) -> Response:
    """Answer a file of the pages."""
    files = cast(Mapping[str, Path], current_app.extensions["tailrace.ui"])
    return send_asset(files, name)
