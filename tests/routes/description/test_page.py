"""GET /docs and its assets: what is served, what is not, and the setting DOCS."""

import re

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from app.settings import Settings

TYPES = {"css": "text/css", "js": "text/javascript", "png": "image/png"}


def got(http: FlaskClient, path: str, **options: object) -> TestResponse:
    """Return an answer whose file is closed."""
    return http.get(path, buffered=True, **options)


@pytest.fixture
def assets(http) -> list[str]:
    """Return the addresses that the page names."""
    found = re.findall(r'(?:src|href)="([^"]+)"', got(http, "/docs").text)
    assert found
    return found


def test_the_page_has_a_policy_and_no_script_of_its_own(http):
    answer = got(http, "/docs")
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert not re.search(r"<style|style=|<script>|\bon\w+=|://", answer.text)


def test_every_asset_is_served_with_its_type(http, assets):
    for path in assets:
        assert path.startswith("docs/"), "relative, so that a prefix may be before it"
        answer = got(http, path)
        assert (answer.status_code, answer.mimetype) == (200, TYPES[path.rpartition(".")[2]])
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_browser_that_has_an_asset_gets_it_no_more(http, assets):
    for path in ("docs", *assets):
        tag = got(http, path).headers["ETag"]
        again = got(http, path, headers={"If-None-Match": tag})
        assert (again.status_code, again.data) == (304, b"")


@pytest.mark.parametrize(
    "name",
    [
        *("index.html", "swagger-ui.js", "page.html", "page.py", "LICENSE", ""),
        *("../page.py", "..%2fpage.py", "%2e%2e/page.py", "..\\page.py", "/etc/passwd"),
    ],
)
def test_nothing_else_is_served(http, name):
    assert got(http, f"/docs/{name}").status_code == 404


def test_docs_can_be_turned_off(fake_store, assets):
    http = create_app(Settings(docs=False), event_store=fake_store).test_client()
    for path in ("docs", *assets):
        assert got(http, path).status_code == 404
    assert got(http, "/openapi.json").status_code == 200


def test_the_page_needs_no_token(fake_store, assets):
    settings = Settings(auth_secret=("s" * 32,))
    http = create_app(settings, event_store=fake_store).test_client()
    for path in ("docs", "openapi.json", *assets):
        assert got(http, path).status_code == 200
