"""Makes pictures of the dashboard, from gateways with load: a part of `make pictures`.

Grafana is in no package that tests may install. So a page draws the panels from the file of the
dashboard, with the library that Grafana draws with, and asks Prometheus what Grafana would ask.
"""

import json
import threading
import time
from pathlib import Path

from playwright.sync_api import Browser

from tests.deploy.dashboard import dashboard, filled
from tests.deploy.observed import Observed, cause_gaps, kill_a_worker, observed, slow_reader
from tests.processes import NODE_SCRIPTS
from tests.servers import ROOT

PICTURES = ROOT / "docs" / "pictures"
PAGE = Path(__file__).parent
UPLOT = NODE_SCRIPTS / "node_modules" / "uplot" / "dist"

# What is shown, and what happens meanwhile.
SECONDS = 180
PARTS = {
    "dashboard": ["Is it well?", "Delivery", "Appends"],
    "dashboard-streams": ["Streams", "Redis", "Workers"],
    "dashboard-access": ["HTTP and access"],  # the numbers of the archiver are made up
}


def pictures_of_dashboard(browser: Browser, directory: Path) -> None:
    """Run gateways for some minutes, let a few things happen, and show it."""
    with observed(directory) as found:
        began = time.time()
        trouble = threading.Thread(target=cause_trouble, args=(found,))
        trouble.start()
        time.sleep(SECONDS)
        trouble.join()
        end = int(time.time())
        for name, rows in PARTS.items():
            draw(browser, found, name, rows, int(began) + 12, end)


def cause_trouble(found: Observed) -> None:
    """Let Redis be frozen for a while, viewers be slow, events be trimmed, and a worker die."""
    time.sleep(60)
    found.redis.pause()
    time.sleep(12)
    found.redis.resume()
    slow = [slow_reader(found.gateways[1]) for _ in range(8)]
    time.sleep(25)
    for _ in range(5):
        cause_gaps(found.redis)
        time.sleep(2)
    kill_a_worker(found.gateways[0])
    time.sleep(10)
    for each in slow:
        each.close()


def draw(
    browser: Browser, found: Observed, name: str, rows: list[str], start: int, end: int
) -> None:
    """Make a picture of some rows."""
    document = dashboard()
    for panel in document["panels"]:
        for target in panel.get("targets", ()):
            target["expr"] = filled(target["expr"])
    page = browser.new_page(viewport={"width": 1220, "height": 900})
    page.goto((PAGE / "page.html").as_uri())
    page.add_style_tag(path=UPLOT / "uPlot.min.css")
    page.add_script_tag(path=UPLOT / "uPlot.iife.min.js")
    page.add_script_tag(path=PAGE / "page.js")
    arguments = ", ".join(
        json.dumps(each) for each in (document, found.prometheus.url, start, end, 1, rows)
    )
    empty = page.evaluate(f"draw({arguments})")
    assert not empty, empty
    page.locator("body").screenshot(path=PICTURES / f"{name}.png")
    page.close()
