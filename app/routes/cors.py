"""Cross-origin reads (CORS, section 3.2 of the Fetch Standard) from local pages and named origins.

Pages of other origins may read. They may not append or delete.
"""

import re

from flask import Flask, Response, request
from werkzeug.datastructures import HeaderSet

LOCAL_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")
ALLOWED_METHODS = ("GET", "HEAD")
ALLOWED_HEADERS = ("Accept", "Cache-Control", "Last-Event-ID")
MAX_AGE_SECONDS = 600


def init_app(app: Flask, origins: tuple[str, ...]) -> None:
    """Let pages of `origins` (`*`: of all origins) read, and pages on localhost on any port."""
    allowed = {origin.lower() for origin in origins}

    def allow(response: Response) -> Response:
        origin = request.environ.get("HTTP_ORIGIN")
        if origin is None or request.method not in (*ALLOWED_METHODS, "OPTIONS"):
            return response
        response.vary.add("Origin")
        if "*" in allowed or origin.lower() in allowed or LOCAL_ORIGIN.fullmatch(origin.lower()):
            response.access_control_allow_origin = origin
            if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
                response.access_control_allow_methods = HeaderSet(ALLOWED_METHODS)
                response.access_control_allow_headers = HeaderSet(ALLOWED_HEADERS)
                response.access_control_max_age = MAX_AGE_SECONDS
        return response

    app.after_request(allow)
