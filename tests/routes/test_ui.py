"""The pages for people and their files: what is served, what is not, and the setting UI."""

import re
from urllib.parse import urljoin

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from app.routes.page_files import CONTENT_SECURITY_POLICY
from app.settings import Settings
from tests.servers import ROOT

TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
FILES = sorted(
    path.relative_to(ROOT / "app" / "ui").as_posix()
    for path in (ROOT / "app" / "ui").rglob("*.*")
    if path.suffix != ".html"
)
PAGES = ("/", "/ui/runs/a")


def got(http: FlaskClient, path: str, **options: object) -> TestResponse:
    """Return an answer whose file is closed."""
    return http.get(path, buffered=True, **options)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_a_policy_and_no_script_of_its_own(http, path):
    answer = got(http, path)
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    assert answer.headers["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert not re.search(r"<style|style=|<script>|\bon\w+=|://", answer.text)


def test_the_policy_allows_only_what_the_gateway_serves():
    sources = dict(each.strip().split(" ", 1) for each in CONTENT_SECURITY_POLICY.split(";"))
    assert sources.pop("default-src") == "'none'"
    assert sources.pop("img-src") == "'self' data:"
    assert set(sources.values()) == {"'self'", "'none'"}


@pytest.mark.parametrize("path", PAGES)
def test_every_address_in_a_page_is_relative_and_leads_to_something(http, path):
    for address in re.findall(r'(?:src|href)="([^"]+)"', got(http, path).text):
        assert not address.startswith("/")
        assert got(http, urljoin(f"http://host{path}", address)).status_code == 200, address


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_served_with_its_type(http, name):
    answer = got(http, f"/ui/assets/{name}")
    assert (answer.status_code, answer.mimetype) == (200, TYPES[name.rpartition(".")[2]])
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    tag = answer.headers["ETag"]
    again = got(http, f"/ui/assets/{name}", headers={"If-None-Match": tag})
    assert (again.status_code, again.data) == (304, b"")


@pytest.mark.parametrize("name", FILES)
def test_no_file_makes_markup_of_text_or_names_another_host(name):
    code = (ROOT / "app" / "ui" / name).read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", code)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", code)


@pytest.mark.parametrize(
    "name",
    [
        *("run.html", "runs.html", "log", "parts/", ""),
        *("../routes/ui.py", "..%2froutes%2fui.py", "%2e%2e/settings.py", "..\\settings.py"),
    ],
)
def test_nothing_else_is_served(http, name):
    assert got(http, f"/ui/assets/{name}").status_code == 404


@pytest.mark.parametrize(
    "path", ["/ui/", "/ui/runs/", "/ui/runs/a/b", "/ui/runs/a/", "/index.html"]
)
def test_there_are_no_other_pages(http, path):
    assert got(http, path).status_code == 404


def test_the_pages_can_be_turned_off(fake_store):
    http = create_app(Settings(ui=False), event_store=fake_store).test_client()
    for path in (*PAGES, *(f"/ui/assets/{name}" for name in FILES)):
        assert got(http, path).status_code == 404
    assert got(http, "/client.js").status_code == 200


def test_the_pages_need_no_token(fake_store):
    settings = Settings(auth_secret=("s" * 32,))
    http = create_app(settings, event_store=fake_store).test_client()
    for path in (*PAGES, *(f"/ui/assets/{name}" for name in FILES)):
        assert got(http, path).status_code == 200
