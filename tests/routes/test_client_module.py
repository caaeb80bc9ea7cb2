"""GET /client.js: the JavaScript client, for pages of any origin."""

from hashlib import sha256

import pytest

from app import create_app
from app.routes import client_module
from app.settings import Settings
from tests.servers import ROOT

CODE = (ROOT / "clients" / "javascript" / "client.js").read_bytes()
TAG = f'"{sha256(CODE).hexdigest()}"'


def test_it_is_the_module_of_the_checkout(http):
    answer = http.get("/client.js")
    assert (answer.status_code, answer.data) == (200, CODE)
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert answer.headers.getlist("Cache-Control") == ["no-cache"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["ETag"] == TAG


@pytest.mark.parametrize("known", [TAG, f"W/{TAG}", f'"other", {TAG}', "*"])
def test_a_browser_that_has_it_gets_it_no_more(http, known):
    answer = http.get("/client.js", headers={"If-None-Match": known})
    assert (answer.status_code, answer.data) == (304, b"")
    assert answer.headers["ETag"] == TAG
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("known", ['"other"', "", '"'])
def test_a_browser_that_has_another_one_gets_it(http, known):
    assert http.get("/client.js", headers={"If-None-Match": known}).data == CODE


def test_head_has_no_body(http):
    answer = http.head("/client.js")
    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["ETag"] == TAG
    assert int(answer.headers["Content-Length"]) == len(CODE)


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("origin", [None, "https://elsewhere.example", "null"])
def test_a_page_of_any_origin_may_import_it_without_a_token(fake_store, guarded, origin):
    secrets = ("s" * 32,) if guarded else ()
    http = create_app(Settings(auth_secret=secrets), event_store=fake_store).test_client()
    answer = http.get("/client.js", headers={"Origin": origin} if origin else {})
    assert (answer.status_code, answer.data) == (200, CODE)
    assert answer.headers.getlist("Access-Control-Allow-Origin") == ["*"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_a_page_of_a_named_origin_may_import_it_with_its_cookie(fake_store):
    origin = "https://page.example"
    settings = Settings(auth_secret=("s" * 32,), cors_origins=(origin,))
    http = create_app(settings, event_store=fake_store).test_client()
    answer = http.get("/client.js", headers={"Origin": origin})
    assert answer.headers.getlist("Access-Control-Allow-Origin") == [origin]
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_can_only_be_read(http, method):
    assert http.open("/client.js", method=method).status_code == 405


def test_a_copy_of_the_package_without_it_serves_all_the_same(fake_store, monkeypatch):
    monkeypatch.setattr(client_module, "_PLACES", (ROOT / "absent",))
    http = create_app(Settings(), event_store=fake_store).test_client()
    assert http.get("/client.js").status_code == 404
    assert http.get("/healthz").status_code == 200
