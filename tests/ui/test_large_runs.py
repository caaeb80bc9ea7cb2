"""The page of a run of 100,000 events: all of it can be reached."""

import pytest

from app.client import Client
from app.streaming.event_store import EventStore

COUNT = 100_000


@pytest.fixture(scope="module")
def large_run(redis_server):
    store = EventStore(redis_server.url, maxlen=2 * COUNT)
    names = [("llm", "stream"), ("tool", "called"), ("tool", "answered"), ("log", "line")]
    for start in range(0, COUNT, 1000):
        events = [
            {
                "event_category": names[number % 4][0],
                "event_action": names[number % 4][1],
                "data": {"text": f"text {number}", "odd": [number % 7, {"deep": None}]},
            }
            for number in range(start + 1, start + 1001)
        ]
        store.add_many("large", events)
    yield "large"
    store.delete("large")


def scroll_to(run, part: float) -> None:
    run.page.evaluate(
        "(part) => { const e = document.getElementById('events');"
        " e.scrollTop = part * (e.scrollHeight - e.clientHeight); }",
        part,
    )


@pytest.mark.timeout(120)
def test_every_part_of_a_large_run_can_be_scrolled_to(large_run, open_run):
    run = open_run(large_run)
    run.wait_for_events(COUNT, 60)
    assert run.sequences()[-1] == COUNT
    for part in (0, 0.25, 0.5, 0.1, 0.99, 1):
        scroll_to(run, part)
        run.wait_for_rows()
        sequences = run.sequences()
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
        assert abs(sequences[0] - part * COUNT) <= 40
        assert run.page.evaluate("document.querySelectorAll('#events *').length") < 500
    run.press("g")
    run.wait(lambda: run.sequences()[0] == 1, "g goes to the first")
    run.press("G")
    run.wait(lambda: run.sequences()[-1] == COUNT, "G goes to the last")


@pytest.mark.timeout(120)
def test_filters_and_search_know_events_that_are_not_held(large_run, open_run):
    run = open_run(large_run)
    run.wait_for_events(COUNT, 60)
    run.page.locator("#chips .chip", has_text="log.line").click()
    run.wait(lambda: "25,000 rows" in run.text("#counts"), "the rows are counted")
    run.press("g")
    run.wait(lambda: run.sequences()[:3] == [3, 7, 11], "the first ones are read again")
    run.page.fill("#search", "text 4321")
    run.wait(lambda: "3 rows" in run.text("#counts"), "all of it is searched", 60)
    run.wait(lambda: run.sequences() == [43211, 43215, 43219], "these have the text")


@pytest.mark.timeout(120)
def test_a_link_leads_to_an_old_event_of_a_large_run(large_run, open_run, large_gateway):
    event = Client(large_gateway.url).get_events(large_run, from_sequence=4321, limit=1)[0]
    run = open_run(large_run, link=f"#event={event.id}")
    run.wait(lambda: run.selected() is not None, "it is selected", 60)
    assert run.selected()["sequence"] == "4321"
    assert "text 4321" in run.text("#detail")
