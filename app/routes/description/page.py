"""The page that shows the description: `GET /docs`, with what Swagger UI needs."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from flask import Blueprint, Flask, Response, current_app

from ..access.access import declares
from ..page_files import send_asset, send_page

# The page is one of ours, and its assets are those of Swagger UI. Only these are served.
_OWN = Path(__file__).parent
_OF_SWAGGER_UI = ("swagger-ui.css", "index.css", "swagger-ui-bundle.js", "favicon-32x32.png")

blueprint = Blueprint("docs", __name__)


def init_app(app: Flask) -> None:
    """Serve the page."""
    spec = find_spec("flask_swagger_ui")  # only its files are used
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    assets = {name: package / "dist" / name for name in _OF_SWAGGER_UI}
    app.extensions["tailrace.assets"] = {**assets, "page.js": _OWN / "page.js"}
    app.register_blueprint(blueprint)


@blueprint.get("/docs")
@declares("open")
def page() -> Response:
    """Answer the page. It holds no secret."""
    return send_page(_OWN / "page.html")


@blueprint.get("/docs/<name>")
@declares("open")
def asset(name: str) -> Response:
    """Answer one of the assets of the page."""
    assets = cast(Mapping[str, Path], current_app.extensions["tailrace.assets"])
    return send_asset(assets, name)
