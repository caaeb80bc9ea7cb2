"""The page of all runs: the list, live; filters, more, keys, hostile names."""

from types import SimpleNamespace

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
def servers(tmp_path, open_context):
    """Start a Redis and a gateway for one test. `open_page` opens the list in a new browser."""
    (tmp_path / "redis").mkdir()
    with (
        RedisServer(tmp_path / "redis") as redis,
        GatewayServer(redis.url, tmp_path / "log", RETRY_MS=200) as gateway,
    ):
        contexts = []

        def new_context(**options):
            contexts.append(open_context(**options))
            return contexts[-1]

        def open_page(link="", **options):
            page = new_context(**options).new_page()
            page.goto(f"{gateway.url}/{link}")
            wait_until_live(page)
            return page

        yield SimpleNamespace(
            redis=redis,
            gateway=gateway,
            store=EventStore(redis.url),
            new_context=new_context,
            open_page=open_page,
        )
        for context in contexts:
            context.close()


@pytest.fixture
def runs(servers):
    return servers.store, servers.open_page


def wait(page, predicate, description):
    def look():
        page.wait_for_timeout(20)
        return predicate()

    return wait_until(look, description, 40)


def wait_until_live(page):
    wait(page, lambda: "live" in page.text_content("#connection"), "it is connected")


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
    store.add("one", "lifecycle", "started")
    page = open_page()
    wait(page, lambda: ids(page) == ["one"], "the first")
    store.add("two", "lifecycle", "started")
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


def test_a_hundred_runs_that_begin_at_once_are_all_shown(runs):
    store, open_page = runs
    page = open_page()
    for number in range(100):
        store.add(f"run-{number:03}", "lifecycle", "started")
    wait(page, lambda: len(ids(page)) == 100, "all of them")
    assert page.text_content("#counts") == "100 runs"


def test_a_flood_of_runs_shows_the_latest(runs):
    store, open_page = runs
    page = open_page()
    for number in range(2500):
        store.add(f"run-{number:04}", "lifecycle", "started")
    wait(page, lambda: "run-2499" in ids(page)[:5], "the latest is above")
    assert 50 <= len(ids(page)) <= 2000


def test_the_table_holds_2000_rows(runs):
    store, open_page = runs
    for number in range(2010):
        store.add(f"run-{number:04}", "lifecycle", "started")
    page = open_page()
    for size in (50, 100, 200, 400, 800, 1600):
        wait(page, lambda size=size: len(ids(page)) == size, f"{size} rows")
        page.click("#more")
    wait(page, lambda: len(ids(page)) == 2000, "as many as it holds")
    assert page.text_content("#counts") == "The latest 2,000 runs. Filter to see others"
    assert page.is_hidden("#more")
    store.add("one-more", "lifecycle", "started")
    wait(page, lambda: ids(page)[0] == "one-more", "a new one comes")
    assert len(ids(page)) == 2000


# Holds the stream back until the list has come, or half a second has passed without one. Then it
# calls `begin`.
HELD_STREAM = """
const send = window.fetch;
let listed;
const list = new Promise((resolve) => { listed = resolve; });
window.fetch = async (url, options) => {
  const { pathname } = new URL(url);
  if (pathname === "/runs/stream") {
    await Promise.race([list, new Promise((resolve) => setTimeout(resolve, 500))]);
    await window.begin();
  }
  const response = await send(url, options);
  if (pathname === "/runs") listed();
  return response;
};
"""


def test_a_run_that_begins_before_the_stream_is_open_is_shown(servers):
    context = servers.new_context()
    context.expose_function(
        "begin", lambda: servers.store.add("between", "lifecycle", "started") and None
    )
    context.add_init_script(HELD_STREAM)
    page = context.new_page()
    page.goto(servers.gateway.url)
    wait(page, lambda: ids(page) == ["between"], "it is shown")


def test_the_list_comes_although_the_stream_is_refused(servers):
    servers.store.add("one", "lifecycle", "started")
    page = servers.new_context(expected=("503",)).new_page()
    page.route("**/runs/stream?*", lambda route: route.fulfill(status=503))
    page.goto(servers.gateway.url)
    wait(page, lambda: ids(page) == ["one"], "the list is there")
    page.unroute("**/runs/stream?*")
    wait_until_live(page)


def test_a_database_that_was_emptied_empties_the_list(servers):
    servers.store.add("old", "lifecycle", "started")
    servers.store.add("old", "lifecycle", "completed")
    page = servers.open_page(expected=("404",))
    wait(page, lambda: ids(page) == ["old"], "a run")
    with servers.redis.client() as redis:
        redis.flushall()
    servers.store.add("new", "lifecycle", "started")
    wait(page, lambda: ids(page) == ["new"], "only the new run")


def test_an_active_run_without_a_log_disappears(servers):
    servers.store.add("gone", "lifecycle", "started")
    page = servers.open_page(expected=("404",))
    wait(page, lambda: ids(page) == ["gone"], "a run")
    with servers.redis.client() as redis:
        redis.delete("run:gone:events")
    wait_until(lambda: page.wait_for_timeout(20) or ids(page) == [], "its row goes", 12)


def test_a_run_that_cannot_be_asked_for_stays_and_is_asked_again(servers):
    servers.store.add("run", "lifecycle", "started")
    page = servers.open_page(expected=("ERR_FAILED",))
    wait(page, lambda: ids(page) == ["run"], "a run")
    page.route("**/runs/run", lambda route: route.abort())
    with page.expect_event("requestfailed"):
        servers.store.add("run", "lifecycle", "completed")
    wait(page, lambda: page.evaluate(ROWS)[0]["state"] == "active", "its row stays")
    page.unroute("**/runs/run")
    wait(page, lambda: page.evaluate(ROWS)[0]["state"] == "completed", "it is asked again")


def test_a_run_called_stream_is_asked_for_too(runs):
    store, open_page = runs
    page = open_page()
    store.add("stream", "lifecycle", "started")
    store.add("streamer", "lifecycle", "started")
    wait(page, lambda: set(ids(page)) == {"stream", "streamer"}, "both are shown")
    store.add("stream", "lifecycle", "failed")
    wait(page, lambda: page.evaluate(ROWS)[0]["state"] == "failed", "it has failed")
    store.delete("stream")
    wait(page, lambda: ids(page) == ["streamer"], "it is deleted")


# `later` puts the clock forward that limits how long a request is repeated.
SKIPPED_CLOCK = """
const now = performance.now.bind(performance);
let skipped = 0;
performance.now = () => now() + skipped;
window.later = (ms) => { skipped += ms; };
"""


def test_more_can_be_pressed_again_after_it_failed(servers):
    for number in range(120):
        servers.store.add(f"run-{number:03}", "lifecycle", "started")
    context = servers.new_context(expected=("ERR_FAILED",))
    context.add_init_script(SKIPPED_CLOCK)
    page = context.new_page()
    page.goto(servers.gateway.url)
    wait(page, lambda: len(ids(page)) == 50, "a page")
    page.click("#more")
    wait(page, lambda: len(ids(page)) == 100, "another one")
    page.route("**/runs?*", lambda route: route.abort())
    with page.expect_event("requestfailed"):
        page.click("#more")
    page.evaluate("later(31_000)")
    wait(page, lambda: "no response" in page.text_content("#message"), "it has failed")
    assert page.is_enabled("#more")
    assert len(ids(page)) == 100
    page.unroute("**/runs?*")
    page.click("#more")
    wait(page, lambda: len(ids(page)) == 120, "all")
    assert page.text_content("#message") == ""
    assert page.is_hidden("#more")


def test_a_prefix_that_no_run_id_has_is_explained(runs):
    store, open_page = runs
    for number in range(60):
        store.add(f"run-{number:03}", "lifecycle", "started")
    page = open_page(expected=("400",))
    wait(page, lambda: page.text_content("#counts") == "50 runs, and more", "a page")
    page.fill("#prefix", "run 0")
    wait(page, lambda: page.text_content("#counts") == "0 runs", "none")
    assert "prefix" in page.text_content("#empty")
    assert page.is_visible("#empty")
    assert page.is_hidden("#more")
    page.fill("#prefix", "run-00")
    wait(page, lambda: page.text_content("#counts") == "10 runs", "those with the prefix")
    assert page.is_hidden("#empty")


FOCUSED = "() => document.activeElement.textContent"


def test_the_focus_goes_to_a_neighbour_when_a_row_is_removed(servers):
    page = servers.open_page()
    for name in ("one", "two", "three"):
        servers.store.add(name, "lifecycle", "started")
        wait(page, lambda name=name: ids(page)[:1] == [name], f"{name} is the first")
    page.focus("#runs a:text-is('two')")
    servers.store.delete("two")
    wait(page, lambda: ids(page) == ["three", "one"], "it is deleted")
    assert page.evaluate(FOCUSED) == "one"
    servers.store.delete("one")
    wait(page, lambda: ids(page) == ["three"], "the last row is deleted")
    assert page.evaluate(FOCUSED) == "three"
    servers.store.delete("three")
    wait(page, lambda: ids(page) == [], "the only row is deleted")
    assert page.evaluate("document.activeElement.className") == "table"


def test_the_focused_row_does_not_move(runs):
    store, open_page = runs
    page = open_page()
    for name in ("one", "two"):
        store.add(name, "lifecycle", "started")
        wait(page, lambda name=name: ids(page)[:1] == [name], f"{name} is the first")
    page.focus("#runs a:text-is('one')")
    store.add("one", "lifecycle", "completed")
    wait(page, lambda: page.evaluate(ROWS)[1]["state"] == "completed", "it has ended")
    assert page.evaluate(FOCUSED) == "one"


def test_a_list_that_is_read_anew_keeps_the_focus(servers):
    for number in range(60):
        servers.store.add(f"run-{number:02}", "lifecycle", "started")
    page = servers.open_page()
    wait(page, lambda: len(ids(page)) == 50, "a page")
    page.focus("#runs a:text-is('run-40')")
    page.evaluate("document.querySelector('#more').click()")
    wait(page, lambda: len(ids(page)) == 60, "all")
    assert page.evaluate(FOCUSED) == "run-40"


def test_the_focus_goes_to_the_last_row_when_nothing_more_is_left(runs):
    store, open_page = runs
    for number in range(60):
        store.add(f"run-{number:02}", "lifecycle", "started")
    page = open_page()
    wait(page, lambda: len(ids(page)) == 50, "a page")
    page.focus("#more")
    page.keyboard.press("Enter")
    wait(page, lambda: len(ids(page)) == 60, "all")
    assert page.evaluate(FOCUSED) == ids(page)[-1]


@pytest.mark.parametrize("width", [360, 480, 700, 701, 1024, 1280])
def test_the_table_is_as_wide_as_its_place(runs, width):
    store, open_page = runs
    store.add("a" * 128, "lifecycle", "started", {"title": "long " * 100})
    store.add("a" * 128, "c" * 64, "a" * 64)
    for number in range(30):
        store.add(f"{number:02}" * 64, "lifecycle", "started")
        store.add(f"{number:02}" * 64, "lifecycle", "cancelled")
    page = open_page(viewport={"width": width, "height": 640})
    wait(page, lambda: len(ids(page)) == 31, "all")
    sizes = page.evaluate(
        "() => { const { scrollWidth, clientWidth } = document.querySelector('.table');"
        " return [scrollWidth, clientWidth]; }"
    )
    assert sizes[0] == sizes[1]
    assert page.locator("#runs a").first.bounding_box()["width"] > 80


def hide(page, hidden: bool) -> None:
    """Hide or show a page, as far as its scripts can see. Chromium itself has no way to do that."""
    page.evaluate(
        """(hidden) => {
          Object.defineProperty(document, "hidden", { configurable: true, value: hidden });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_hidden_tabs_leave_connections_to_others(servers):
    servers.store.add("one", "lifecycle", "started")
    context = servers.new_context(expected=("404",))
    tabs = []
    for _ in range(6):
        page = context.new_page()
        page.goto(servers.gateway.url, wait_until="commit")
        wait_until_live(page)
        hide(page, True)
        tabs.append(page)
    page = context.new_page()
    page.goto(servers.gateway.url)
    wait(page, lambda: ids(page) == ["one"], "the seventh tab has the list")
    wait_until_live(page)
    ended = "() => document.querySelector('#connection').dataset.state === 'connecting'"
    wait(page, lambda: all(tab.evaluate(ended) for tab in tabs), "no hidden tab is connected")
    servers.store.add("two", "lifecycle", "started")
    hide(tabs[0], False)
    wait(page, lambda: ids(tabs[0]) == ["two", "one"], "a tab that is seen again reads the list")
    wait_until_live(tabs[0])
    servers.store.add("three", "lifecycle", "started")
    wait(page, lambda: ids(tabs[0]) == ["three", "two", "one"], "it is live again")


def test_a_tab_that_is_hidden_for_a_moment_stays_connected(runs):
    store, open_page = runs
    page = open_page()
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    hide(page, True)
    hide(page, False)
    store.add("one", "lifecycle", "started")
    wait(page, lambda: ids(page) == ["one"], "it is live")
    assert not [url for url in requests if "/runs/stream" in url]


def test_runs_of_a_moment_leave_no_row(runs):
    store, open_page = runs
    page = open_page(expected=("404",))
    for number in range(30):
        store.add(f"short-{number}", "lifecycle", "started")
        store.add(f"short-{number}", "lifecycle", "completed")
        store.delete(f"short-{number}")
    store.add("last", "lifecycle", "started")
    wait(page, lambda: ids(page) == ["last"], "only the last")


def test_only_the_last_of_many_filters_counts(runs):
    store, open_page = runs
    for number in range(300):
        store.add(f"a-{number:03}", "lifecycle", "started")
        store.add(f"b-{number:03}", "lifecycle", "started")
    page = open_page()
    wait(page, lambda: len(ids(page)) == 50, "a page")
    page.evaluate(
        """() => {
          for (const state of ["ended", "active", "", "ended", "active"]) {
            document.querySelector(`[data-state="${state}"]`).click();
          }
        }"""
    )
    store.add("a-000", "lifecycle", "completed")
    page.fill("#prefix", "b-0")
    wait(page, lambda: {each[:3] for each in ids(page)} == {"b-0"}, "those with the prefix")
    assert len(ids(page)) == 50
    store.add("a-001", "lifecycle", "failed")
    store.add("b-099", "lifecycle", "failed")
    store.add("b-new", "lifecycle", "started")
    store.add("b-0new", "lifecycle", "started")
    wait(page, lambda: ids(page)[0] == "b-0new", "what passes the filter comes live")
    wait(page, lambda: "b-099" not in ids(page), "what does not pass goes")
    assert len(ids(page)) == 50
    assert {each[:3] for each in ids(page)} == {"b-0"}


def test_the_token_button_is_there(runs):
    _, open_page = runs
    assert open_page().is_visible("#token")
