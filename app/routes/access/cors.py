"""Cross-origin reads (CORS, section 3.2 of the Fetch Standard) from local pages and named origins.

Pages of other origins may read. They may not append or delete, unless requests bring credentials.
"""

import re
from collections.abc import Iterable

from flask import Flask, Response, request
from werkzeug.datastructures import HeaderSet

LOCAL_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")
ALLOWED_METHODS = ("GET", "HEAD")
ALLOWED_HEADERS = (
    *("Accept", "Cache-Control", "Last-Event-ID"),
    *("X-Request-Id", "traceparent", "tracestate"),
)
# The clients of the presets read all but the first.
EXPOSED_HEADERS = (
    *("X-Request-Id", "Location"),
    *("X-Workflow-Run-Id", "X-Workflow-Stream-Tail-Index"),
)
# With credentials, for pages of named origins. The token says which of it they may do.
CREDENTIALED_METHODS = ("GET", "HEAD", "QUERY", "POST", "DELETE")
CREDENTIALED_HEADERS = ("Content-Type", "Idempotency-Key")
MAX_AGE_SECONDS = 600


def init_app(app: Flask, origins: tuple[str, ...], *, with_credentials: bool = False) -> None:
    """Let pages of `origins` (`*`: of all origins) read, and pages on localhost on any port.

    If requests bring credentials, pages of `origins` may send their cookie, and do what their
    token grants. Those on localhost may bring a token, and read.
    """
    allowed = {origin.lower() for origin in origins}
    headers = (*ALLOWED_HEADERS, "Authorization") if with_credentials else ALLOWED_HEADERS

    def allow(response: Response) -> Response:
        origin = request.environ.get("HTTP_ORIGIN")
        if origin is None:
            return response
        if with_credentials and origin.lower() in allowed:
            response.vary.add("Origin")
            response.access_control_allow_origin = origin
            response.access_control_allow_credentials = True
            response.access_control_expose_headers = HeaderSet(EXPOSED_HEADERS)
            _answer_preflight(response, CREDENTIALED_METHODS, (*headers, *CREDENTIALED_HEADERS))
            return response
        if request.method not in (*ALLOWED_METHODS, "OPTIONS"):
            return response
        response.vary.add("Origin")
        if "*" in allowed or origin.lower() in allowed or LOCAL_ORIGIN.fullmatch(origin.lower()):
            response.access_control_allow_origin = origin
            response.access_control_expose_headers = HeaderSet(EXPOSED_HEADERS)
            _answer_preflight(response, ALLOWED_METHODS, headers)
        return response

    app.after_request(allow)


def _answer_preflight(response: Response, methods: Iterable[str], headers: Iterable[str]) -> None:
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        response.access_control_allow_methods = HeaderSet(methods)
        response.access_control_allow_headers = HeaderSet(headers)
        response.access_control_max_age = MAX_AGE_SECONDS
