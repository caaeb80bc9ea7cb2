"""Nothing that axe-core finds, on both pages; and all of it by the keyboard alone."""

import pytest

from tests.servers import ROOT

AXE = ROOT / "tests" / "integration" / "node" / "node_modules" / "axe-core" / "axe.min.js"

LOOKS = [
    pytest.param({"color_scheme": scheme, "viewport": {"width": width, "height": 800}},
                 id=f"{scheme} {width}")
    for scheme in ("light", "dark")
    for width in (1280, 360)
]  # fmt: skip


def check(page) -> None:
    # As the test's own code, which the policy of the page does not hold back.
    page.evaluate(f"() => {{ {AXE.read_text()} }}")
    result = page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    found = [
        (each["id"], each["help"], [node["html"][:300] for node in each["nodes"]][:5])
        for each in result["violations"]
    ]
    assert found == []


@pytest.fixture
def busy_run(store, redis_client, run_id):
    store.add(run_id, "lifecycle", "started", {"title": "A run"}, lease_seconds=600)
    for number in range(30):
        store.add(run_id, "llm", "stream", f"word {number} ")
    for category in ("tool", "step", "agent", "db", "http", "queue", "cache", "mail"):
        store.add(run_id, category, "started", {"id": 1, "list": [1, None, True, "x"]}, {"host": 1})
        store.add(run_id, category, "failed", {"id": 1})
    gone = store.get_events(run_id)[40]
    redis_client.xdel(f"run:{run_id}:events", gone.id)
    return run_id


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_on_the_page_of_a_run(busy_run, open_run, look):
    run = open_run(busy_run, **look)
    run.wait_for_events(46)
    run.wait(lambda: run.text("#lease"), "the state is told")
    check(run.page)
    run.press("g", "j", "j", "e")
    check(run.page)
    run.press("Escape")
    run.page.locator("#chips .chip").first.click()
    check(run.page)
    run.press("n", "f")
    run.page.click("#replay")
    run.page.click(".play")
    check(run.page)
    run.press("?")
    check(run.page)


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_on_the_page_of_runs(busy_run, open_context, large_gateway, look):
    page = open_context(**look).new_page()
    page.goto(large_gateway.url)
    page.wait_for_selector("#runs tr")
    check(page)
    page.keyboard.press("j")
    page.fill("#prefix", "no-such-run")
    page.wait_for_selector("#empty:not([hidden])")
    check(page)


def test_no_page_is_wider_than_a_small_screen(busy_run, open_run, open_context, large_gateway):
    run = open_run(busy_run, viewport={"width": 360, "height": 640})
    run.wait_for_events(46)
    run.press("g")
    run.page.click("#replay")
    runs = open_context(viewport={"width": 360, "height": 640}).new_page()
    runs.goto(large_gateway.url)
    runs.wait_for_selector("#runs tr")
    for page in (run.page, runs):
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_everything_can_be_reached_by_the_keyboard(busy_run, open_run):
    run = open_run(busy_run)
    run.wait_for_events(46)
    run.press("g", "e")
    reached = set()
    for _ in range(80):
        run.press("Tab")
        reached.add(
            run.page.evaluate(
                "() => { const e = document.activeElement;"
                " return e.id || e.ariaLabel || e.textContent.trim(); }"
            )
        )
    assert {"replay", "download", "cancel", "help", "search", "join", "events"} <= reached
    assert {"Copy JSON", "Copy as curl", "Copy link", "Close", "previous", "next"} <= reached
    run.page.focus("#events")
    run.press("ArrowDown")
    run.wait(lambda: run.selected() and run.selected()["row"] == 1, "the second is selected")
    described = run.page.get_attribute("#events", "aria-activedescendant")
    option = run.page.locator(f"#{described}")
    assert option.get_attribute("role") == "option"
    run.wait(lambda: option.get_attribute("aria-selected") == "true", "it is selected")
    assert option.get_attribute("aria-setsize") == str(len(run.rows()))
