"""Measures the page of a run: scrolling through 100,000 events, and following live ones."""

import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from app.client import Client
from tests.servers import GatewayServer, RedisServer
from tests.ui.conftest import CHROMIUM, OPTIONS

COUNT = 100_000
FRAMES = 300
# Moves the list in each frame, and returns how long each frame took in milliseconds.
SCROLL = """async ([frames, isWheel]) => {
  const list = document.getElementById("events");
  const took = [];
  let last = performance.now();
  for (let frame = 0; frame < frames; frame++) {
    list.scrollTop = isWheel ? list.scrollTop - 120 : (list.scrollHeight * frame) / frames;
    await new Promise((resolve) => requestAnimationFrame(resolve));
    const now = performance.now();
    took.push(now - last);
    last = now;
  }
  return took;
}"""

LIVE_SECONDS = 20
# To reach in a minute what 500 events a second take half an hour for.
FAST_EVENTS, FAST_RATE = 480_000, 8000


def event(number: int) -> dict[str, Any]:
    category, action = (("llm", "stream"), ("tool", "called"), ("log", "line"))[number % 3]
    data = {"number": number, "content": f"word {number} ", "call_id": f"c{number // 3}"}
    return {"event_category": category, "event_action": action, "data": data}


def produce(client: Client, run_id: str, rate: int, count: int) -> None:
    """Append events at a rate a second."""
    start = time.monotonic()
    step = max(1, rate // 100)
    for number in range(0, count, step):
        client.add_many(run_id, [event(each) for each in range(number, number + step)])
        time.sleep(max(0.0, start + number / rate - time.monotonic()))


def open_page(browser: Browser, url: str) -> Page:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(url)
    return page


def wait_for_all(page: Page, count: int) -> None:
    while not (shown := page.text_content("#counts")).startswith(f"{count:,} ") or "older" in shown:
        page.wait_for_timeout(20)


def quantiles(took: list[float]) -> str:
    cuts = statistics.quantiles(took, n=100)
    return f"p50 {cuts[49]:.1f}, p95 {cuts[94]:.1f}, p99 {cuts[98]:.1f} ms a frame"


def measure_scrolling(browser: Browser, client: Client, url: str) -> None:
    for start in range(0, COUNT, 1000):
        client.add_many("large", [event(number) for number in range(start, start + 1000)])
    began = time.monotonic()
    page = open_page(browser, f"{url}/ui/runs/large")
    page.wait_for_selector(".row")
    print(f"first rows after {time.monotonic() - began:.1f} s")
    wait_for_all(page, COUNT)
    print(f"all {COUNT:,} events known after {time.monotonic() - began:.1f} s")
    print("dragging the scrollbar:", quantiles(page.evaluate(SCROLL, [FRAMES, False])))
    print("turning the wheel:     ", quantiles(page.evaluate(SCROLL, [FRAMES, True])))
    page.close()


def measure_live(browser: Browser, client: Client, url: str, rate: int, count: int) -> None:
    run_id = f"live-{rate}"
    page = open_page(browser, f"{url}/ui/runs/{run_id}")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def metric(name: str) -> float:
        got = session.send("Performance.getMetrics")["metrics"]
        return next(each["value"] for each in got if each["name"] == name)

    page.wait_for_timeout(1000)
    producer = threading.Thread(target=produce, args=(client, run_id, rate, count))
    producer.start()
    print(f"{rate} events/s:")
    while producer.is_alive():
        busy, began = metric("TaskDuration"), time.monotonic()
        page.wait_for_timeout(5000)
        share = (metric("TaskDuration") - busy) / (time.monotonic() - began)
        session.send("HeapProfiler.collectGarbage")
        heap = metric("JSHeapUsedSize") / 1e6
        known = page.text_content("#counts").split(" ")[0]
        print(f"  {known:>8} events, main thread {share:.0%} busy, heap {heap:.1f} MB")
    producer.join()
    page.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        (Path(folder) / "redis").mkdir()
        with (
            RedisServer(Path(folder) / "redis") as redis,
            GatewayServer(redis.url, Path(folder) / "log", STREAM_MAXLEN=1_000_000) as gateway,
        ):
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
            client = Client(gateway.url)
            measure_scrolling(browser, client, gateway.url)
            measure_live(browser, client, gateway.url, 500, 500 * LIVE_SECONDS)
            measure_live(browser, client, gateway.url, FAST_RATE, FAST_EVENTS)
            browser.close()


if __name__ == "__main__":
    main()
