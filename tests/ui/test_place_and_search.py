"""The page of a run keeps its place, misses nothing in a search, and leads where a link says."""

import json

from app.client import Client
from tests.ui.test_resume import HIDE
from tests.ui.test_run_page import LINE, add_lines


def names(store, run_id, count):
    for start in range(0, count, 1000):
        store.add_many(run_id, [
            {"event_category": "ab"[number % 4 == 0], "event_action": "x", "data": f"d {number}"}
            for number in range(start, start + 1000)
        ])  # fmt: skip


def test_a_slow_scroll_leaves_the_end(store, run_id, open_run):
    add_lines(store, run_id, 1000)
    run = open_run(run_id)
    run.wait_for_events(1000)
    run.page.hover("#events")
    for _ in range(40):
        run.page.mouse.wheel(0, -8)
        run.page.wait_for_timeout(20)
    run.wait(lambda: run.sequences()[-1] < 995, "the end is left", 5)


def test_a_link_with_a_search_finds_all_of_a_run(store, run_id, open_run):
    add_lines(store, run_id, 5000)
    run = open_run(run_id, link="#search=line")
    run.wait_for_events(5000)
    run.wait(lambda: "5,000 rows" in run.text("#counts"), "all are found", 5)


def test_a_link_with_a_search_opens_the_event_it_names(store, run_id, open_run):
    add_lines(store, run_id, 3000)
    event = store.get_events(run_id)[499]
    run = open_run(run_id, link=f"#search=line&event={event.id}")
    run.wait_for_events(3000)
    run.wait(lambda: "line 500" in run.text("#detail"), "it is opened", 5)


def test_a_row_that_is_pressed_while_events_come_is_opened(store, run_id, open_run):
    add_lines(store, run_id, 100)
    run = open_run(run_id)
    run.wait_for_events(100)
    run.press("g")
    box = run.page.locator("#events").bounding_box()
    run.page.mouse.move(box["x"] + 300, box["y"] + 100)
    run.page.mouse.down()
    add_lines(store, run_id, 1, 101)
    run.wait(lambda: "101 events" in run.text("#counts"), "it came")
    run.page.wait_for_timeout(50)
    run.page.mouse.up()
    run.wait(lambda: run.page.is_visible("#detail"), "the row is opened", 3)


def test_what_is_selected_stays_in_sight_when_the_search_is_cleared(store, run_id, open_run):
    names(store, run_id, 6000)
    run = open_run(run_id)
    run.wait_for_events(6000)
    run.page.fill("#search", "d 2222")
    run.wait(lambda: len(run.rows()) == 1, "it is found")
    run.page.locator("#events .row").first.click()
    run.press("/", "Escape")
    run.wait(lambda: run.text("#counts") == "6,000 events", "all are there")
    run.wait(lambda: run.selected() is not None, "it is in sight", 3)


def test_j_from_a_row_that_is_filtered_out_stays_near(store, run_id, open_run):
    names(store, run_id, 6000)
    run = open_run(run_id)
    run.wait_for_events(6000)
    run.page.locator("#events .row .name", has_text="a.x").first.click()
    run.page.locator("#chips .chip", has_text="b.x").click()
    run.wait(lambda: "rows" in run.text("#counts"), "it is filtered")
    run.press("j")
    run.wait(lambda: run.selected() is not None, "one is selected")
    assert int(run.selected()["sequence"]) > 5000


def test_a_search_finds_what_came_at_once_after_an_outage(store, run_id, open_run, large_gateway):
    add_lines(store, run_id, 100)
    run = open_run(run_id, expected=("ERR_", "status of 5"))
    run.wait_for_events(100)
    run.page.fill("#search", "line")
    run.wait(lambda: "100 rows" in run.text("#counts"), "all are found")
    run.page.context.set_offline(True)
    for worker in large_gateway.workers():
        worker.kill()
    run.wait_for_state("reconnecting")
    add_lines(store, run_id, 5000, 101)
    run.page.context.set_offline(False)
    run.wait_for_events(5100, 40)
    run.wait(lambda: "5,100 rows" in run.text("#counts"), "all are found", 5)


def test_the_text_of_joined_tokens_shrinks_when_a_replay_goes_back(redis_client, run_id, open_run):
    for number in range(100):
        fields = {"event_category": "llm", "event_action": "stream", "data": f'"[{number}]"'}
        redis_client.xadd(
            f"run:{run_id}:events", fields, id=f"{1_700_000_000_000 + number * 100}-1"
        )
    run = open_run(run_id)
    run.wait_for_events(100)
    run.press("k", "e", "r", " ")
    for part in (8000, 3000, 8000):
        run.page.evaluate(
            "(value) => { const e = document.querySelector('#controls input');"
            " e.value = value; e.dispatchEvent(new Event('input')); }", part)  # fmt: skip
        run.page.wait_for_timeout(200)
    assert run.text("#detail .text").count("[35]") == 1


def test_a_run_that_is_reopened_and_ends_soon_goes_on(store, run_id, open_run):
    store.add(run_id, "lifecycle", "completed")
    run = open_run(run_id)
    run.wait_for_state("ended")
    store.add(run_id, "lifecycle", "started")
    store.add(run_id, "lifecycle", "completed")
    run.wait_for_events(3, 25)


def test_a_name_that_only_a_link_knows_can_be_unchosen(store, run_id, open_run):
    add_lines(store, run_id, 3)
    run = open_run(run_id, link="#name=no.such")
    run.wait(lambda: run.page.locator(".chip[aria-pressed=true]").count() == 1, "it is shown", 5)


def test_a_run_of_two_months_is_as_long_as_it_was(redis_client, run_id, open_run):
    for day in (0, 60, 61):
        redis_client.xadd(f"run:{run_id}:events", LINE | {"data": json.dumps(day)},
                          id=f"{1_700_000_000_000 + day * 86_400_000}-1")  # fmt: skip
    run = open_run(run_id)
    run.wait_for_events(3)
    run.page.click("#replay")
    assert run.text(".clock").endswith("of 61 d")


def test_a_link_to_an_event_that_is_gone_says_so(store, run_id, open_run):
    add_lines(store, run_id, 3)
    run = open_run(run_id, link="#event=1-1")
    run.wait(lambda: "no longer kept" in run.text("#message"), "it is told")


def test_a_link_that_is_pasted_into_the_page_counts(store, run_id, open_run):
    names(store, run_id, 1000)
    run = open_run(run_id)
    run.wait_for_events(1000)
    event = store.get_events(run_id)[499]
    run.page.evaluate("(hash) => { location.hash = hash; }", f"#name=a.x&event={event.id}")
    run.wait(
        lambda: "500 rows" in run.text("#counts") or "750 rows" in run.text("#counts"), "its filter"
    )
    run.wait(lambda: event.id in run.text("#detail"), "its event")


def test_the_focus_stays_in_the_list_when_something_is_closed(store, run_id, open_run):
    add_lines(store, run_id, 20)
    run = open_run(run_id)
    run.wait_for_events(20)
    focus = "document.activeElement.id"
    run.press("g", "e")
    run.page.click("#detail .close")
    assert run.page.evaluate(focus) == "events"
    run.press("/")
    run.page.keyboard.type("line")
    run.press("Enter")
    assert run.page.evaluate(focus) == "events"
    run.press("j")
    run.wait(lambda: run.selected()["sequence"] == "2", "the keys go on")


def test_g_and_k_lead_from_the_end(store, run_id, open_run):
    add_lines(store, run_id, 200)
    run = open_run(run_id)
    run.wait_for_events(200)
    run.press("g", "G", "k")
    run.wait(lambda: run.selected() and run.selected()["sequence"] == "199", "it is selected")


def test_the_text_of_many_tokens_has_its_end_in_sight_and_can_be_copied(
    store, run_id, open_run, large_gateway
):
    words = [f"word{number} " for number in range(30_000)]
    client = Client(large_gateway.url)
    for start in range(0, len(words), 1000):
        part = words[start : start + 1000]
        events = [{"event_category": "llm", "event_action": "stream", "data": w} for w in part]
        client.add_many(run_id, events)
    run = open_run(run_id, permissions=["clipboard-read", "clipboard-write"])
    run.wait_for_events(30_000)
    assert [row["times"] for row in run.rows()] == ["×30,000"]
    run.press("g", "e")
    run.wait(lambda: "word29999" in run.text("#detail .text"), "the end is there")
    assert len(run.text("#detail .text")) < 110_000
    assert run.text("#detail .facts").startswith("30,000 tokens in ")
    run.page.click("text=Copy text")
    run.wait(lambda: run.text("#message") == "Copied the text.", "it is copied")
    assert run.page.evaluate("navigator.clipboard.readText()") == "".join(words)


def test_a_name_that_is_no_run_id_is_told(open_run):
    for name in ("%ff", "a%20b"):
        run = open_run(name)
        run.wait(lambda run=run: "no run id" in run.text("#message"), "it is told")


def test_a_tab_that_is_hidden_needs_no_connection(store, run_id, open_run, large_gateway):
    run = open_run(run_id)
    run.wait_for_state("live")
    [worker] = large_gateway.workers()
    before = len(worker.net_connections())
    run.page.evaluate(HIDE, True)
    run.wait(lambda: len(worker.net_connections()) < before, "the stream is closed", 40)
    add_lines(store, run_id, 3)
    run.page.evaluate(HIDE, False)
    run.wait_for_events(3)
    assert run.sequences() == [1, 2, 3]
