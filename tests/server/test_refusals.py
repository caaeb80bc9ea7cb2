"""What gunicorn refuses by itself: problem details, which quote nothing of the request."""

import json
from http.client import HTTPResponse

import gevent.socket
import pytest
from gunicorn import util
from gunicorn.http import errors

from app.server.common_headers import SECURITY_HEADERS
from app.server.refusals import refusal_of

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.ParseException)
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_about_a_request_has_an_answer_of_fixed_words(kind):
    error = kind.__new__(kind)
    error.args = ("sesame",)
    refusal = refusal_of(error)
    if "Response" in kind.__name__:
        assert refusal is None, "it is the gateway's own fault"
    else:
        assert 400 <= refusal.status < 600
        assert "sesame" not in str(refusal)
        assert refusal.detail


def test_other_errors_are_no_refusals():
    assert refusal_of(ValueError("sesame")) is None


@pytest.mark.parametrize(
    ("message", "detail"),
    [("Invalid HTTP Version: 'é'", "Invalid HTTP Version: 'é'"), ("", "Bad Request")],
)
def test_what_gunicorn_refuses_is_a_problem_document(message, detail):
    server, client = gevent.socket.socketpair()
    with server, client:
        util.write_error(server, 400, "Bad Request", message)
        server.shutdown(1)
        response = HTTPResponse(client)
        response.begin()
        assert (response.status, response.reason) == (400, "Bad Request")
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.headers["Cache-Control"] == "no-store"
        for name, value in SECURITY_HEADERS:
            assert response.headers[name] == value
        assert response.headers["Connection"] == "close"
        body = response.read()
        assert response.headers["Content-Length"] == str(len(body))
        assert json.loads(body) == {
            "type": "about:blank",
            "title": "Bad Request",
            "status": 400,
            "detail": detail,
            "request_id": response.headers["X-Request-Id"],
        }
        assert client.recv(1) == b""
