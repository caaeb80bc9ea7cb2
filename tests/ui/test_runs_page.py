"""The page of all runs: the list, live; filters, more, keys, hostile names."""

import pytest

from app.streaming.event_store import EventStore
from tests.servers import GatewayServer, RedisServer, wait_until

ROWS = """() => [...document.querySelectorAll("#runs tr")].map((row) => ({
  id: row.querySelector("a").textContent,
  state: row.querySelector(".badge").textContent,
  last: row.querySelector(".name").textContent,
  events: row.querySelector("td.number").textContent,
  about: row.querySelector(".about").textContent,
}))"""


@pytest.fixture
def runs(tmp_path, open_context):
    """Start servers of their own, and return a store and a function that opens the page."""
    (tmp_path / "redis").mkdir()
    with (
        RedisServer(tmp_path / "redis") as redis,
        GatewayServer(redis.url, tmp_path / "log", RETRY_MS=200) as gateway,
    ):
        pages = []

        def open_page(link="", **options):
            page = open_context(**options).new_page()
            pages.append(page)
            page.goto(f"{gateway.url}/{link}")
            wait(page, lambda: "live" in page.text_content("#connection"), "it is connected")
            return page

        yield EventStore(redis.url), open_page
        for page in pages:
            page.context.close()


def wait(page, predicate, description):
    def look():
        page.wait_for_timeout(20)
        return predicate()

    return wait_until(look, description, 40)


def ids(page) -> list[str]:
    return [row["id"] for row in page.evaluate(ROWS)]


def test_runs_come_go_and_end_live(runs):
    store, open_page = runs
    page = open_page()
    wait(page, lambda: "no runs yet" in page.text_content("#empty"), "it is empty")
    store.add("first", "lifecycle", "started", {"title": "The first", "more": 1})
    wait(page, lambda: ids(page) == ["first"], "the first")
    store.add("second", "log", "line", "x")
    wait(page, lambda: ids(page) == ["second", "first"], "the latest is the first")
    store.add("first", "lifecycle", "failed")
    wait(page, lambda: page.evaluate(ROWS)[0]["state"] == "failed", "it has failed")
    assert page.evaluate(ROWS)[0] == {
        "id": "first",
        "state": "failed",
        "last": "lifecycle.failed",
        "events": "2",
        "about": "The first",
    }
    store.add("second", "log", "line", "y")
    wait(page, lambda: page.evaluate(ROWS)[1]["events"] == "2", "an active run is kept up to date")
    page.click("#runs a:text-is('first')")
    wait(page, lambda: page.url.endswith("/ui/runs/first"), "its page opens")
    page.go_back()
    wait(page, lambda: set(ids(page)) == {"first", "second"}, "the list is there again")


def test_filters_ask_the_gateway_and_stand_in_the_link(runs):
    store, open_page = runs
    for name in ("a-1", "a-2", "b-1"):
        store.add(name, "lifecycle", "started")
    store.add("a-1", "lifecycle", "completed")
    page = open_page()
    wait(page, lambda: set(ids(page)) == {"a-1", "a-2", "b-1"}, "all")
    page.keyboard.press("/")
    page.keyboard.type("a-")
    wait(page, lambda: set(ids(page)) == {"a-1", "a-2"}, "those with the prefix")
    page.click("text=Ended")
    wait(page, lambda: ids(page) == ["a-1"], "those that have ended")
    store.add("a-2", "lifecycle", "completed")
    wait(page, lambda: ids(page) == ["a-2", "a-1"], "one more has ended")
    store.add("a-1", "lifecycle", "started")
    wait(page, lambda: ids(page) == ["a-2"], "one goes on again")
    other = open_page(page.url[page.url.index("#") :])
    wait(other, lambda: ids(other) == ["a-2"], "the link has the filter")
    page.fill("#prefix", "zzz")
    wait(page, lambda: "No run passes" in page.text_content("#empty"), "none")


def test_long_lists_come_page_by_page(runs):
    store, open_page = runs
    for number in range(120):
        store.add(f"run-{number:03}", "lifecycle", "started")
    page = open_page()
    wait(page, lambda: len(ids(page)) == 50, "a page")
    assert page.text_content("#counts") == "50 runs, and more"
    page.click("#more")
    wait(page, lambda: len(ids(page)) == 100, "another one")
    page.click("#more")
    wait(page, lambda: page.is_hidden("#more"), "all")
    assert sorted(ids(page)) == [f"run-{number:03}" for number in range(120)]


def test_keys_lead_through_the_list(runs):
    store, open_page = runs
    for name in ("one", "two"):
        store.add(name, "lifecycle", "started")
    page = open_page()
    wait(page, lambda: ids(page) == ["two", "one"], "both")
    for key in ("j", "j", "k", "j"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    wait(page, lambda: page.url.endswith("/ui/runs/one"), "the page opens")


def test_what_a_run_says_of_itself_is_text(runs):
    store, open_page = runs
    store.add("x", "lifecycle", "started", {"title": "<img src=x onerror=window.attacked=1>\u202e"})
    page = open_page()
    wait(page, lambda: ids(page) == ["x"], "it is there")
    assert page.evaluate(ROWS)[0]["about"] == r"<img src=x onerror=window.attacked=1>\u202e"
    assert page.evaluate("window.attacked ?? document.images.length") == 0
