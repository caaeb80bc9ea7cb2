"""Makes the pictures in docs/pictures from a real run: `make pictures`."""

import html
import os
import pty
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from app.client import Client
from tests.deploy.pictures import pictures_of_dashboard
from tests.servers import ROOT, GatewayServer, RedisServer
from tests.ui.conftest import CHROMIUM, OPTIONS

PICTURES = ROOT / "docs" / "pictures"

ANSWER = (
    "Churn in the small-business segment doubled in March, from 4 to 8 %. Three in four of these "
    "customers left within a week of the price change. I would ask them first, and hold the second "
    "step of the change until then."
)
COLOURS = {"31": "#c0392b", "32": "#1e8449", "33": "#9a6700", "34": "#1f5fbf", "35": "#8e44ad",
           "36": "#0b7285", "90": "#6a737d"}  # fmt: skip

# What a terminal shows, as a page.
TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; padding: 18px 22px; background: #fff; color: #1c2329; width: max-content;
  font: 14px/1.5 "DejaVu Sans Mono", monospace; white-space: pre; }}
.bold {{ font-weight: 700 }} .faint {{ color: #6a737d }}</style>{}"""


def play(client: Client, run_id: str) -> None:
    """Append what an agent does that answers a question."""
    dice = random.Random(7)
    with client.appender(run_id) as run:
        meta = {"title": "Why did churn double in March?", "model": "large-4", "user": "ada"}
        run.emit("lifecycle", "started", meta, lease_seconds=60)
        for number, (tool, arguments) in enumerate(
            [
                ("query_warehouse", {"table": "subscriptions", "by": ["segment", "month"]}),
                ("search_tickets", {"text": "cancel", "since": "2026-03-01", "limit": 50}),
                ("query_warehouse", {"table": "price_changes", "by": ["plan"]}),
                ("query_warehouse", {"table": "surveys", "by": ["reason"]}),
            ],
            1,
        ):
            run.emit("step", "started", {"step": number})
            time.sleep(0.1)
            call = {"call_id": f"call-{number}", "tool": tool, "arguments": arguments}
            run.emit("tool", "called", call)
            time.sleep(dice.uniform(0.2, 0.8))
            if number == 2:
                problem = {"call_id": f"call-{number}", "error": "the ticket index is locked"}
                run.emit("tool", "failed", problem)
            else:
                rows = [{"segment": "small", "month": "March", "churn": 0.08, "customers": 412}]
                run.emit("tool", "answered", {"call_id": f"call-{number}", "rows": rows})
            time.sleep(0.2)
            run.emit("log", "line", f"step {number} took {dice.uniform(0.4, 1.2):.2f} s")
            run.emit("step", "completed", {"step": number})
        time.sleep(1.2)
        for word in re.findall(r"\S+\s*", ANSWER):
            run.emit("llm", "stream", {"content": word})
            time.sleep(0.03)
        run.emit("llm", "completed", {"tokens": 58})
        run.flush()


def deploy(client: Client, run_id: str) -> None:
    """Append what a deployment does, in which a test fails at first."""
    with client.appender(run_id) as run:
        run.emit("lifecycle", "started", {"title": "Deploy 42", "commit": "9c1f0e2"})
        for step, seconds, lines in (
            ("build", 0.8, ["compiling 214 modules", "image is 81 MB"]),
            ("test", 0.6, ["1,204 passed, 1 failed"]),
            ("test", 0.5, ["1,205 passed"]),
            ("roll out", 0.4, ["3 of 3 replicas are ready"]),
        ):
            run.emit("step", "started", {"step": step})
            for line in lines:
                time.sleep(seconds / 2)
                run.emit("log", "line", line)
            time.sleep(0.1)
            failed = any("failed" in line for line in lines)
            run.emit("step", "failed" if failed else "completed", {"step": step})
        run.emit("lifecycle", "completed", {"seconds": 2.9})


def picture_of_terminal(browser: Browser, gateway: str, run_id: str) -> None:
    """Show what `follow` prints on a terminal."""
    command = [sys.executable, "-m", "app", "follow", run_id]
    environ = {**os.environ, "TAILRACE_URL": gateway, "TERM": "xterm-256color", "COLUMNS": "110"}
    master, slave = pty.openpty()
    process = subprocess.Popen(command, stdout=slave, stderr=slave, env=environ, cwd=ROOT)
    os.close(slave)
    output = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # Linux says so at the end
            break
        if not piece:
            break
        output += piece
    process.wait()
    shown = f"$ tailrace follow {run_id}\n{output.decode().replace(chr(13), '')}"
    page = browser.new_page()
    page.set_content(TERMINAL.format(as_html(shown)))
    page.locator("body").screenshot(path=PICTURES / "follow.png")
    page.close()


def as_html(text: str) -> str:
    """Return a text with colours of a terminal as HTML."""
    parts = re.split(r"\x1b\[([0-9;]*)m", text)
    made = html.escape(parts[0])
    numbers: list[str] = []
    for codes, part in zip(parts[1::2], parts[2::2], strict=True):
        numbers = [] if codes in ("", "0") else [*numbers, *codes.split(";")]
        style = next((f"color:{COLOURS[each]}" for each in numbers if each in COLOURS), "")
        name = "bold" if "1" in numbers else "faint" if "2" in numbers else ""
        made += f'<span class="{name}" style="{style}">{html.escape(part)}</span>'
    return made


def pictures_of_pages(browser: Browser, gateway: str, run_id: str) -> None:
    """Show the pages: a run in light and in dark, on a small screen, and the list of runs."""
    for name, scheme, width, height, keys in (
        ("run", "light", 1280, 720, ["k", "k", "k", "e"]),
        ("run-dark", "dark", 1280, 720, ["k", "k", "e"]),
        ("run-small", "light", 360, 720, []),
    ):
        viewport = {"width": width, "height": height}
        page = browser.new_page(viewport=viewport, color_scheme=scheme)
        page.goto(f"{gateway}/ui/runs/{run_id}")
        page.wait_for_selector("#state:not([hidden])")
        page.wait_for_timeout(1000)
        for key in keys:
            page.keyboard.press(key)
        page.wait_for_timeout(1000)
        page.screenshot(path=PICTURES / f"{name}.png")
        page.close()
    page = browser.new_page(viewport={"width": 1280, "height": 420})
    page.goto(gateway)
    page.wait_for_selector("#runs tr")
    page.wait_for_timeout(1000)
    page.screenshot(path=PICTURES / "runs.png")
    page.close()


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        (Path(folder) / "redis").mkdir()
        with (
            RedisServer(Path(folder) / "redis") as redis,
            GatewayServer(redis.url, Path(folder) / "log") as gateway,
        ):
            client = Client(gateway.url)
            for number, end in enumerate(("completed", "failed", "cancelled", "completed"), 1):
                run_id = f"nightly-report-{number}"
                client.add(run_id, "lifecycle", "started", {"title": f"Nightly report {number}"})
                client.add(run_id, "lifecycle", end)
            client.add("import-customers", "lifecycle", "started", {"title": "Import customers"})
            client.add("import-customers", "log", "line", "412 of 5,000")
            play(client, "churn-analysis")
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
            pictures_of_pages(browser, gateway.url, "churn-analysis")
            deploy(client, "deploy-42")
            picture_of_terminal(browser, gateway.url, "deploy-42")
        (Path(folder) / "dashboard").mkdir()
        pictures_of_dashboard(browser, Path(folder) / "dashboard")
        browser.close()


if __name__ == "__main__":
    main()
