"""The page of a run: history and live, tokens, filters, search, what is missing, replay, keys."""

import json
import re
import subprocess

import pytest
import requests

from app.client import Client

LINE = {"event_category": "log", "event_action": "line"}


def add_lines(store, run_id, count, start=1):
    numbers = range(start, start + count)
    for part in (numbers[at : at + 1000] for at in range(0, count, 1000)):
        events = [{**LINE, "data": f"line {number}"} for number in part]
        store.add_many(run_id, events)


def test_history_and_live_events_come_in_the_order_of_the_log(store, run_id, open_run):
    store.add(run_id, "lifecycle", "started", {"task": "analyse"})
    add_lines(store, run_id, 5)
    run = open_run(run_id)
    run.wait_for_events(6)
    run.wait_for_state("live")
    assert run.sequences() == [1, 2, 3, 4, 5, 6]
    assert run.rows()[0]["data"] == '{"task":"analyse"}'
    run.wait(lambda: run.text("#state") == "active", "the state is told")
    add_lines(store, run_id, 3, 6)
    store.add(run_id, "lifecycle", "completed")
    run.wait_for_events(10)
    run.wait_for_state("ended")
    assert run.sequences() == list(range(1, 11))
    assert run.rows()[-1]["name"] == "lifecycle.completed"
    run.wait(lambda: run.text("#state") == "completed", "the state is told")


def test_a_run_without_a_log_waits_for_its_first_event(store, run_id, open_run):
    run = open_run(run_id)
    run.wait(lambda: "Waiting" in run.text("#empty"), "it waits")
    store.add(run_id, "log", "line", "first")
    run.wait_for_events(1)
    assert run.rows()[0]["data"] == "first"
    assert run.page.is_hidden("#empty")


def test_a_run_that_is_reopened_goes_on(store, run_id, open_run):
    store.add(run_id, "lifecycle", "completed")
    run = open_run(run_id)
    run.wait_for_state("ended")
    store.add(run_id, "lifecycle", "started")
    run.wait_for_events(2, 40)
    assert run.sequences() == [1, 2]


def test_an_event_opens_as_a_tree_with_paths_to_copy(store, run_id, open_run, large_gateway):
    data = {"rows": [{"name": "a b", "n": 1.5, "none": None}], "odd key": True}
    event_id = store.add(run_id, "tool", "answered", data, {"host": "h"})
    add_lines(store, run_id, 3)
    run = open_run(run_id, permissions=["clipboard-read", "clipboard-write"])
    run.wait_for_events(4)
    run.press("g", "e")
    detail = run.page.locator("#detail")
    assert run.text("#detail h2") == "tool.answered"
    assert event_id in detail.inner_text()
    detail.locator("summary", has_text=re.compile("^rows")).click()
    detail.locator("summary", has_text=re.compile("^0")).click()
    for label, path in (("name", 'data.rows[0].name'), ("n", "data.rows[0].n"),
                        ("odd key", 'data["odd key"]')):  # fmt: skip
        leaf = detail.locator(".leaf", has=run.page.locator(f'.key:text-is("{label}")'))
        leaf.hover()
        leaf.get_by_role("button").click()
        assert copied(run) == path
    assert {"a b", "1.5", "null"} <= set(re.findall(r"a b|1\.5|null", detail.inner_text()))
    run.page.click("text=Copy JSON")
    assert json.loads(copied(run))["data"] == data
    run.page.click("text=Copy as curl")
    shown = subprocess.run(["sh", "-c", copied(run)], capture_output=True, check=True).stdout
    assert [event["id"] for event in json.loads(shown)["events"]] == [event_id]
    run.page.click("text=Copy link")
    link = copied(run)
    assert link.startswith(f"{large_gateway.url}/ui/runs/{run_id}#")
    other = open_run(run_id, link=link[link.index("#") :])
    other.wait(lambda: other.selected() is not None, "the event is selected")
    assert other.selected()["sequence"] == "1"
    assert other.text("#detail h2") == "tool.answered"
    run.press("e")
    assert run.page.is_hidden("#detail")


def copied(run) -> str:
    return run.page.evaluate("() => navigator.clipboard.readText()")


def test_tokens_are_one_row_whose_text_grows(store, run_id, open_run):
    def stream(*words, source=None):
        for word in words:
            store.add(run_id, "llm", "stream", {"content": word}, source)

    store.add(run_id, "lifecycle", "started")
    stream("Hel", "lo ", "wor", "ld")
    run = open_run(run_id)
    run.wait_for_events(5)
    assert [row["data"] for row in run.rows()] == ["", "Hello world"]
    assert run.rows()[1]["times"] == "×4"
    run.press("k", "e")
    assert "Hello world" in run.text("#detail .text")
    stream(", and", " more\n\nof it")
    run.wait(lambda: run.text("#detail .text") == "Hello world, and more\n\nof it", "it grows")
    stream("Another", source={"agent": 2})
    store.add(run_id, "tool", "called", "x")
    stream("After")
    run.wait_for_events(10)
    assert [row["data"] for row in run.rows()[1:]] == [
        "Hello world, and more\\u000a\\u000aof it",
        "Another",
        "x",
        "After",
    ]
    run.press("t")
    run.wait(lambda: run.sequences() == list(range(1, 11)), "each token is a row")
    run.press("t")
    run.wait(lambda: len(run.rows()) == 5, "they are joined again")


def test_chips_filter_by_name_and_count_all_events(store, run_id, open_run):
    add_lines(store, run_id, 4)
    store.add(run_id, "tool", "called", 1)
    store.add(run_id, "tool", "answered", 2)
    run = open_run(run_id)
    run.wait_for_events(6)
    chips = run.page.locator("#chips .chip")
    assert chips.all_inner_texts() == ["log.line4", "tool.answered1", "tool.called1"]
    chips.nth(1).click()
    chips.nth(2).click()
    run.wait(lambda: run.sequences() == [5, 6], "only the tool's events are there")
    store.add(run_id, "tool", "called", 3)
    add_lines(store, run_id, 2)
    run.wait(lambda: run.sequences() == [5, 6, 7], "new ones pass too")
    store.add(run_id, "lifecycle", "failed")
    run.wait(lambda: run.sequences() == [5, 6, 7, 10], "the end passes every filter")
    assert chips.nth(0).inner_text() == "log.line6"
    linked = open_run(run_id, link=run.page.url[run.page.url.index("#") :])
    linked.wait(lambda: linked.sequences() == [5, 6, 7, 10], "the link has the filter")
    chips.nth(1).click()
    chips.nth(2).click()
    run.wait(lambda: run.sequences() == list(range(1, 11)), "all are there again")


def test_search_finds_text_in_data_names_and_joined_tokens(store, run_id, open_run):
    store.add(run_id, "tool", "called", {"query": "NEEDLE in data"})
    for word in ("a nee", "dle in", " tokens"):
        store.add(run_id, "llm", "stream", word)
    add_lines(store, run_id, 3)
    store.add(run_id, "needle", "found")
    run = open_run(run_id)
    run.wait_for_events(8)
    run.press("/")
    run.page.keyboard.type("needle")
    run.wait(lambda: [row["row"] for row in run.rows()] == [0, 1, 2], "three rows are found")
    assert [row["name"] for row in run.rows()] == ["tool.called", "llm.stream", "needle.found"]
    store.add(run_id, "log", "line", "one more needle")
    add_lines(store, run_id, 1)
    run.wait(lambda: len(run.rows()) == 4, "a new one is found")
    run.press("Escape")
    run.wait(lambda: len(run.rows()) == 8, "all are there again")
    run.press("/")
    run.page.keyboard.type("nowhere")
    run.wait(lambda: "No event passes" in run.text("#empty"), "nothing is found")


def test_following_stops_on_scroll_and_says_how_many_are_new(store, run_id, open_run):
    add_lines(store, run_id, 100)
    run = open_run(run_id)
    run.wait_for_events(100)
    assert run.sequences()[-1] == 100
    assert run.page.is_hidden(".news")
    run.page.hover("#events")
    run.page.mouse.wheel(0, -600)
    run.wait(lambda: run.page.is_visible(".news"), "it has stopped")
    before = run.sequences()
    add_lines(store, run_id, 7, 101)
    run.wait(lambda: run.text(".news") == "↓ 7 new", "it says how many are new")
    assert run.sequences() == before
    run.page.click(".news")
    run.wait(lambda: run.sequences()[-1] == 107, "it follows again")
    add_lines(store, run_id, 1, 108)
    run.wait(lambda: run.sequences()[-1] == 108, "and goes on")
    run.press("f")
    add_lines(store, run_id, 1, 109)
    run.wait(lambda: run.text(".news") == "↓ 1 new", "f stops it")
    run.press("f")
    run.wait(lambda: run.sequences()[-1] == 109, "f follows")


def test_missing_events_are_rows_to_jump_to(store, redis_client, run_id, open_run):
    add_lines(store, run_id, 60)
    ids = [event.id for event in store.get_events(run_id)]
    redis_client.xdel(f"run:{run_id}:events", *ids[:2], *ids[9:12], ids[40])
    run = open_run(run_id)
    run.wait_for_events(54)
    assert run.text("#notable span") == "3 notices"
    first, second, third = "2 older events are no longer kept.", "3 events are", "1 event is"
    run.press("g", "n")
    run.wait(lambda: (run.selected() or {"data": ""})["data"].startswith(second), "the second one")
    assert run.rows()[0]["data"] == first
    run.press("n")
    run.wait(lambda: run.selected()["data"].startswith(third), "the next one")
    run.press("p", "p")
    run.wait(lambda: run.selected()["data"] == first, "the first one")
    assert run.all_sequences() == [*range(3, 10), *range(13, 41), *range(42, 61)]


def test_events_that_go_while_the_page_is_away_are_told(store, redis_client, run_id, open_run,
                                                        large_gateway):  # fmt: skip
    add_lines(store, run_id, 3)
    run = open_run(run_id, expected=("ERR_", "status of 5"))
    run.wait_for_state("live")
    run.page.context.set_offline(True)
    for worker in large_gateway.workers():
        worker.kill()
    run.wait_for_state("reconnecting")
    add_lines(store, run_id, 4, 4)
    gone = [event.id for event in store.get_events(run_id)][3:5]
    redis_client.xdel(f"run:{run_id}:events", *gone)
    run.page.context.set_offline(False)
    run.wait_for_events(5, 40)
    assert [row["sequence"] for row in run.rows()] == ["1", "2", "3", None, "6", "7"]
    assert run.rows()[3]["data"].startswith("2 events are missing here")


def test_a_log_that_is_deleted_leaves_a_row_and_the_new_one_follows(store, run_id, open_run):
    add_lines(store, run_id, 3)
    run = open_run(run_id)
    run.wait_for_events(3)
    store.delete(run_id)
    add_lines(store, run_id, 2)
    run.wait(lambda: [row["sequence"] for row in run.rows()] == ["1", "2", "3", None, "1", "2"],
             "the reset is told")  # fmt: skip
    assert run.rows()[3]["kind"] == "reset"
    assert run.text("#counts").startswith("5 events")


def test_a_lost_run_is_red_and_can_be_jumped_to(store, run_id, open_run):
    store.add(run_id, "lifecycle", "started", lease_seconds=1)
    run = open_run(run_id)
    run.wait_for_events(2, 40)
    run.wait(lambda: run.text("#state") == "lost", "the state is told")
    run.press("n")
    run.wait(lambda: run.selected()["name"] == "lifecycle.lost", "it is selected")
    assert run.selected()["kind"] == "failed"


def test_the_lease_and_the_button_to_cancel_are_those_of_an_active_run(store, run_id, open_run):
    store.add(run_id, "lifecycle", "started", lease_seconds=90)
    run = open_run(run_id)
    run.wait(lambda: re.fullmatch(r"lease 1 min \d+ s", run.text("#lease")), "the lease is told")
    store.add(run_id, "log", "line", lease_seconds=30)
    run.wait(lambda: re.fullmatch(r"lease \d+ s", run.text("#lease")), "it is another one")
    run.page.click("#cancel")
    run.page.click("text=Back")
    run.page.click("#cancel")
    run.page.click("text=Ask it to stop")
    run.wait_for_events(3)
    [*_, request] = store.get_events(run_id)
    assert (request.category, request.action, request.data) == ("request", "cancel", {"by": "page"})
    store.add(run_id, "lifecycle", "cancelled")
    run.wait(lambda: run.text("#state") == "cancelled", "the end is told")
    assert run.page.is_hidden("#cancel")
    assert run.text("#lease") == ""


def test_the_download_is_the_whole_log(store, run_id, open_run):
    add_lines(store, run_id, 1200)
    run = open_run(run_id)
    with run.page.expect_download() as download:
        run.page.click("#download")
    lines = download.value.path().read_text().splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == list(range(1, 1201))
    assert download.value.suggested_filename.endswith(".ndjson")


def test_a_replay_shows_events_by_their_times_and_can_be_scrubbed(
    store, redis_client, run_id, open_run
):
    key = f"run:{run_id}:events"
    names = {"event_category": "log", "event_action": "line"}
    for second in range(0, 100, 10):  # a run of 90 seconds, with a silence of a day in it
        ms = 1_700_000_000_000 + second * 1000 + (86_400_000 if second >= 50 else 0)
        redis_client.xadd(key, {**names, "data": json.dumps(second)}, id=f"{ms}-1")
    run = open_run(run_id)
    run.wait_for_events(10)
    run.page.click("#replay")
    run.page.click(".play")  # pause
    shown = [row["data"] for row in run.rows()]
    assert shown == [str(second) for second in range(0, 10 * len(shown), 10)]
    assert len(shown) < 10
    scrubber = run.page.locator("#controls input[type=range]")
    scrubber.focus()
    run.press("Home")
    run.wait(lambda: [row["data"] for row in run.rows()] == ["0"], "the beginning")
    run.press("End")
    run.wait(lambda: len(run.rows()) == 10, "the end")
    run.page.select_option("#controls select", "100")
    run.page.click(".play")
    run.wait(lambda: len(run.rows()) < 10, "it begins again")
    run.wait(lambda: len(run.rows()) == 10, "all is played, and the silence is not waited for")
    run.press("Escape")
    run.wait(lambda: run.page.is_hidden("#controls"), "it is live again")
    assert len(run.rows()) == 10


def test_the_time_line_leads_to_the_event_that_is_clicked(store, redis_client, run_id, open_run):
    for number in range(100):
        fields = {"event_category": "log", "event_action": "line", "data": str(number)}
        redis_client.xadd(f"run:{run_id}:events", fields, id=f"{1_700_000_000_000 + number}-1")
    store.add(run_id, "lifecycle", "completed")
    redis_client.xtrim(f"run:{run_id}:events", maxlen=100, approximate=False)
    redis_client.xdel(f"run:{run_id}:events", str(store.state(run_id).last_id))
    run = open_run(run_id)
    run.wait_for_events(99)
    box = run.page.locator("#timeline").bounding_box()
    ended = redis_client.xrevrange(f"run:{run_id}:events", count=1)[0][0]
    assert ended.startswith(b"1700000000099")
    drawn = "document.getElementById('timeline').width > 300"  # as it is by default
    run.wait(lambda: run.page.evaluate(drawn), "it is drawn")
    run.page.mouse.click(box["x"] + 1, box["y"] + box["height"] / 2)
    run.wait(lambda: run.selected() and run.selected()["data"] == "1", "the first one")


def test_keys_move_open_and_show_their_help(store, run_id, open_run):
    add_lines(store, run_id, 200)
    run = open_run(run_id)
    run.wait_for_events(200)
    run.press("g")
    run.wait(lambda: run.selected()["sequence"] == "1", "g goes to the first")
    run.press("j", "j", "k", "ArrowDown")
    run.wait(lambda: run.selected()["sequence"] == "3", "j and k move")
    run.press("Enter")
    assert run.text("#detail h2") == "log.line"
    run.press("j")
    run.wait(lambda: "line 4" in run.text("#detail"), "what is open moves too")
    run.press("Escape")
    assert run.page.is_hidden("#detail")
    run.press("G")
    run.wait(lambda: run.sequences()[-1] == 200, "G goes to the end")
    run.press("?")
    assert run.page.is_visible("#keys")
    run.press("j", "Escape")
    assert run.page.is_hidden("#keys")


def test_the_page_of_a_foreign_log_shows_entries_of_any_kind(
    redis_client, run_id, open_run, large_gateway
):
    key = f"run:{run_id}:events"
    redis_client.xadd(key, {"anything": "else"})
    redis_client.xadd(key, {"event_category": "log", "event_action": "line", "data": "no JSON"})
    Client(large_gateway.url).add(run_id, "log", "line", 3)
    redis_client.xadd(key, {"data": "[1]", "timestamp": "never", "sequence": "many"})
    run = open_run(run_id)
    run.wait_for_events(4)
    shown = [(row["sequence"], row["name"], row["data"]) for row in run.rows()]
    assert shown == [
        ("–", "?.?", ""),
        ("–", "log.line", "no JSON"),
        ("3", "log.line", "3"),
        ("–", "?.?", "[1]"),
    ]


@pytest.mark.parametrize("run_id", ["x.y-z_1", "a" * 128])
def test_any_run_id_has_a_page(run_id, store, open_run, large_gateway):
    store.add(run_id, "log", "line", "here")
    run = open_run(run_id)
    run.wait_for_events(1)
    assert run.text("#title") == run_id
    assert requests.get(f"{large_gateway.url}/ui/runs/{run_id}/").status_code == 404
    store.delete(run_id)
