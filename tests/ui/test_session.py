"""The pages where a token is needed: pasted, kept as a cookie, refused, expired and renewed."""

import hashlib
import time

import pytest

from app.auth.tokens import make_token
from tests.servers import GatewayServer

SECRET = "a secret of more than thirty-two bytes"
REFUSED = ("401", "403", "ERR_INCOMPLETE_CHUNKED_ENCODING")
ALL = {"read": ["*"], "request": ["*"]}


def token(ttl: int = 3600, **grants: list[str]) -> str:
    return make_token(SECRET, "tailrace", grants or ALL, ttl, aud="tailrace")


@pytest.fixture(scope="module")
def guarded_gateway(redis_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys"
    keys.write_text(f"viewer {hashlib.sha256(b'a-key-of-somebody').hexdigest()} read *\n")
    keys.chmod(0o600)
    settings = {
        "AUTH_SECRET": SECRET,
        "API_KEYS_FILE": keys,
        "PUBLIC_READ": "public.*",
        "RETRY_MS": 200,
    }
    with GatewayServer(redis_server.url, folder / "log", **settings) as gateway:
        yield gateway


@pytest.fixture
def open_guarded(open_run, guarded_gateway):
    def open_guarded(run_id, **options):
        return open_run(run_id, url=guarded_gateway.url, expected=REFUSED, **options)

    return open_guarded


def paste(run, text: str) -> None:
    run.page.wait_for_selector("dialog[open] input[name=token]")
    run.page.fill("input[name=token]", text)
    run.press("Enter")


def wait_until_forbidden(run) -> None:
    """Wait until the connection has stopped again. Without a token it had stopped with 401."""
    run.wait(lambda: "403" in run.page.get_attribute("#connection", "title"), "it is 403")
    run.wait_for_state("stopped")


def test_a_token_that_is_pasted_opens_the_page_and_stays_as_a_cookie(store, run_id, open_guarded):
    store.add(run_id, "log", "line", 1)
    run = open_guarded(run_id)
    paste(run, "no.token.at-all")
    run.wait(lambda: "401" in run.text("dialog[open] .problem"), "it is refused")
    paste(run, token())
    run.wait_for_events(1)
    assert run.page.evaluate("document.cookie") == ""
    assert run.page.evaluate("localStorage.length + sessionStorage.length") == 0
    run.page.reload()
    run.wait_for_events(1)
    assert run.page.locator("dialog[open]").count() == 0


def test_a_token_for_other_runs_is_told(store, run_id, open_guarded):
    store.add(run_id, "log", "line", 1)
    run = open_guarded(run_id)
    paste(run, token(read=["other"]))
    wait_until_forbidden(run)
    assert "403" in run.text("#message")
    run.wait(lambda: "403" in run.text("#nothing"), "the reason is in sight")


def test_an_api_key_lasts_as_long_as_the_page(store, run_id, open_guarded):
    store.add(run_id, "log", "line", 1)
    run = open_guarded(run_id, permissions=["clipboard-read", "clipboard-write"])
    paste(run, "a-key-of-somebody")
    run.wait_for_events(1)
    run.page.click("#download")
    run.wait(lambda: "Copied the command" in run.text("#message"), "a command is copied")
    command = run.page.evaluate("navigator.clipboard.readText()")
    assert "$TAILRACE_TOKEN" in command
    assert "a-key-of-somebody" not in command
    run.page.reload()
    run.page.wait_for_selector("dialog[open]")


def test_another_token_can_be_given_at_any_time(store, run_id, open_guarded):
    store.add(run_id, "log", "line", 1)
    run = open_guarded(run_id)
    paste(run, token(read=["other"]))
    wait_until_forbidden(run)
    run.page.click("#token")
    paste(run, token())
    run.wait_for_events(1)
    assert run.text("#message") == ""


def test_without_authentication_a_token_is_not_asked_for(store, run_id, open_run):
    store.add(run_id, "log", "line", 1)
    run = open_run(run_id, expected=("404",))
    run.wait_for_events(1)
    run.page.click("#token")
    paste(run, "any")
    run.wait(lambda: "no tokens" in run.text("dialog[open] .problem"), "it says so")
    run.press("Escape")
    assert run.page.locator("dialog[open]").count() == 0


def test_a_public_run_needs_no_token(store, open_guarded):
    store.add("public.run", "log", "line", 1)
    run = open_guarded("public.run")
    run.wait_for_events(1)
    assert run.page.locator("dialog[open]").count() == 0


@pytest.mark.timeout(120)
def test_a_session_that_expires_is_renewed_and_nothing_is_missed(store, run_id, open_guarded):
    run = open_guarded(run_id)
    paste(run, token(8))
    run.wait_for_state("live")
    store.add(run_id, "log", "line", 1)
    run.wait_for_events(1)
    run.page.wait_for_selector("#renew:not([hidden])")  # it is told before
    run.page.click("#renew")
    paste(run, token(12))
    store.add(run_id, "log", "line", 2)
    run.wait_for_events(2)
    assert run.page.locator("dialog[open]").count() == 0
    # This one is left to expire.
    run.page.wait_for_selector("dialog[open]", timeout=40_000)
    store.add(run_id, "log", "line", 3)
    paste(run, token())
    run.wait_for_events(3)
    assert run.sequences() == [1, 2, 3]
    assert run.page.is_hidden("#notable")


def test_a_viewer_whose_token_may_not_cancel_is_told(store, run_id, open_guarded):
    store.add(run_id, "lifecycle", "started")
    run = open_guarded(run_id)
    paste(run, token(read=["*"]))
    run.page.wait_for_selector("#cancel:not([hidden])")
    run.page.click("#cancel")
    run.page.click("text=Ask it to stop")
    run.wait(lambda: "may not ask" in run.text("#message"), "it is told")
    assert len(store.get_events(run_id)) == 1


def test_the_list_of_runs_shows_what_the_token_may_read(store, open_context, guarded_gateway):
    name = f"mine-{time.time_ns()}"
    store.add(f"{name}.1", "log", "line")
    store.add(f"not-{name}", "log", "line")
    page = open_context(expected=REFUSED).new_page()
    page.goto(guarded_gateway.url)
    page.wait_for_selector("#counts:not(:empty)")
    assert name not in page.inner_text("body")  # only public runs
    page.click("#token")
    page.fill("input[name=token]", token(read=[f"{name}.*"]))
    page.keyboard.press("Enter")
    page.click(f"#runs a:text-is('{name}.1')")
    page.wait_for_selector("#events .row")
    assert page.locator("dialog[open]").count() == 0
