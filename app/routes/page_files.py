"""The files of the pages for people: a browser may keep them, and asks whether they are new."""

from collections.abc import Mapping
from pathlib import Path

from flask import Response, abort, send_file

# A page may load what this gateway serves, and nothing else. None has an inline script or an
# inline style. The images of Swagger UI are in its styles, as data.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}


def send_page(path: Path) -> Response:
    """Answer a page."""
    response = send_file(path, mimetype="text/html")
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


def send_asset(assets: Mapping[str, Path], name: str) -> Response:
    """Answer one of the files that pages load; 404 for any other name."""
    if name not in assets:
        abort(404)
    path = assets[name]
    return send_file(path, mimetype=TYPES[path.suffix])
