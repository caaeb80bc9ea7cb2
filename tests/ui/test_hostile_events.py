"""Events that try to become markup, to hide or reorder text, or to stop the page."""

import json

import pytest

from app.client import Client

HOSTILE = [
    "<img src=x onerror=window.attacked=1>",
    "</script><script>window.attacked=1</script>",
    "<svg onload=window.attacked=1>",
    "\"'><iframe srcdoc='<script>parent.attacked=1</script>'>",
    "javascript:window.attacked=1",
    "{{constructor.constructor('window.attacked=1')()}}",
]
REORDERING = "abc\u202edef\u2066\u200b\u0007\u001b[31m\x9b\ufeff\U000e0041"


def check_unharmed(run) -> None:
    harmed = run.page.evaluate(
        "() => window.attacked ?? document.querySelectorAll("
        "'#events :is(img, script, svg, iframe, a), #detail :is(img, script, svg, iframe, a),"
        " #chips :is(img, script, svg, iframe, a)').length"
    )
    assert harmed == 0


def open_all(run) -> None:
    """Open what is closed in the tree of the selected event, one level."""
    for closed in run.page.locator("#detail details:not([open]) > summary").all():
        closed.press("Enter")


def visible_text(run) -> str:
    return run.page.evaluate("document.body.innerText")


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_an_event_becomes_markup(redis_client, store, run_id, open_run, text):
    store.add(run_id, "lifecycle", "started", {"title": text, text: [text, {text: text}]}, text)
    store.add(run_id, "llm", "stream", text)
    fields = {"event_category": text, "event_action": text, "data": text, "timestamp": text}
    redis_client.xadd(f"run:{run_id}:events", fields)
    run = open_run(run_id)
    run.wait_for_events(3)
    for _ in range(3):
        run.press("k", "e", "e", "e")
        open_all(run)
        check_unharmed(run)
    assert text in visible_text(run)
    run.page.fill("#search", text)
    run.wait(lambda: "row" in run.text("#counts"), "it is searched for")
    check_unharmed(run)


def test_what_hides_or_reorders_text_is_shown_as_escapes(redis_client, store, run_id, open_run):
    fields = {"event_category": REORDERING, "event_action": "x", "data": json.dumps(REORDERING)}
    redis_client.xadd(f"run:{run_id}:events", fields)
    store.add(run_id, "llm", "stream", REORDERING)
    store.add(run_id, "log", "line", {REORDERING: REORDERING})
    run = open_run(run_id)
    run.wait_for_events(3)
    for _ in range(3):
        run.press("k", "e")
        assert r"abc\u202edef\u2066" in run.text("#detail")
        shown = visible_text(run) + run.page.evaluate(
            "[...document.querySelectorAll('[title], [aria-label]')]"
            ".map((e) => e.title + e.ariaLabel).join()"
        )
        assert not set(shown) & set(REORDERING[6:]) - set("f[31m")
        run.press("e")


def test_a_text_of_a_megabyte_and_a_deep_value_are_shown_step_by_step(
    store, run_id, open_run, redis_client, large_gateway
):
    client = Client(large_gateway.url, max_event_bytes=3_000_000)
    deep: object = "the bottom"
    for _ in range(127):
        deep = [deep]
    client.add(run_id, "log", "line", "x" * 1_000_000)
    client.add(run_id, "log", "line", deep)
    client.add(run_id, "log", "line", list(range(200_000)))
    client.add(run_id, "log", "line", {"__proto__": {"polluted": 1}, "constructor": None, "": 0})
    run = open_run(run_id)
    run.wait_for_events(4)
    run.press("g", "e")
    assert len(run.text("#detail")) < 10_000
    run.page.click("text=all 1,000,000 characters")
    assert len(run.text("#detail .string")) == 1_000_002
    run.press("j")
    run.wait(lambda: open_all(run) or "the bottom" in run.text("#detail"), "it opens", 50)
    run.press("j")
    run.page.click("text=199,900 more")
    assert run.page.locator("#detail .leaf").count() == 200
    run.press("j")
    assert "polluted" not in run.page.evaluate("JSON.stringify(Object.keys(Object.prototype))")
    assert {"__proto__", "constructor"} <= set(run.page.locator("#detail .key").all_inner_texts())
    check_unharmed(run)


def test_thousands_of_names_do_not_stop_the_page(redis_client, run_id, open_run):
    pipeline = redis_client.pipeline(transaction=False)
    for number in range(5000):
        fields = {"event_category": f"name{number}", "event_action": "x" * 300}
        pipeline.xadd(f"run:{run_id}:events", fields)
    pipeline.execute()
    run = open_run(run_id)
    run.wait_for_events(5000)
    assert run.page.locator("#chips .chip").count() == 13
    run.page.click("#chips .more")
    run.wait(lambda: run.page.locator("#chips .chip").count() == 2001, "all names are there")
    run.page.locator("#chips .chip", has_text="other names").click()
    run.wait(lambda: "3,001 rows" in run.text("#counts"), "the others count as one")
