"""Drives the page of a run as a user does."""

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page

from tests.servers import wait_until

# What each row on the screen shows, in order, as it is painted. When rows come above, the page
# scrolls at once and draws in the next frame: in between they stand elsewhere. A new observer is
# told at the end of a frame.
ROWS = """() => {
  const list = document.getElementById("events");
  const shown = () => {
    const box = list.getBoundingClientRect();
    return [...list.querySelectorAll(".row")]
      .filter((row) => {
        const { top, bottom } = row.getBoundingClientRect();
        return bottom > box.top + 1 && top < box.bottom - 1;
      })
      .sort((one, other) => one.dataset.row - other.dataset.row)
      .map((row) => ({
        row: Number(row.dataset.row),
        sequence: row.querySelector(".sequence")?.textContent ?? null,
        name: row.querySelector(".name")?.textContent ?? null,
        times: row.querySelector(".times")?.textContent ?? null,
        data: row.querySelector(".data").textContent,
        kind: [...row.classList].at(-1),
        isSelected: row.getAttribute("aria-selected") === "true",
      }));
  };
  return new Promise((done) => {
    const observer = new ResizeObserver(() => {
      observer.disconnect();
      done(shown());
    });
    observer.observe(list);
  });
}"""


# Rows are drawn in the frame after the text that counts them.
NEXT_FRAME = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


class RunPage:
    """The page of a run. `page` is that of playwright."""

    def __init__(self, page: Page):
        self.page = page

    def rows(self) -> list[dict[str, Any]]:
        return self.page.evaluate(ROWS)

    def sequences(self) -> list[int]:
        """Return the sequences of the rows on the screen."""
        return [int(row["sequence"]) for row in self.rows() if row["sequence"] not in (None, "–")]

    def text(self, selector: str) -> str:
        return self.page.text_content(selector)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def selected(self) -> dict[str, Any] | None:
        return next((row for row in self.rows() if row["isSelected"]), None)

    def wait(self, predicate: Callable[[], Any], description: str, seconds: float = 20) -> Any:
        """Wait as `wait_until` does, and let the page go on meanwhile."""

        def look() -> Any:
            self.page.wait_for_timeout(20)
            return predicate()

        return wait_until(look, description, seconds)

    def wait_for_events(self, count: int, seconds: float = 20) -> None:
        """Wait until the page knows that many events, and no older ones are left to read."""
        text = f"{count:,} event{'' if count == 1 else 's'}"

        def known() -> bool:
            shown = self.text("#counts")
            return shown.split(",  ")[0].startswith(text) and "older" not in shown

        self.wait(known, f"{text}, not {self.text('#counts')}", seconds)
        self.page.evaluate(NEXT_FRAME)

    def wait_for_state(self, text: str, seconds: float = 20) -> None:
        self.wait(lambda: text in self.text("#connection"), f"the connection is {text}", seconds)

    def wait_for_rows(self) -> None:
        """Wait until all rows on the screen show their events."""
        self.page.evaluate(NEXT_FRAME)
        is_shown = "there are rows, and all of them are read"
        self.wait(lambda: self.rows() and all(r["data"] != "…" for r in self.rows()), is_shown)

    def all_sequences(self) -> list[int]:
        """Scroll from the first to the last row, and return all sequences."""
        self.press("g")
        found: dict[int, int] = {}
        while True:
            before = len(found)
            self.wait_for_rows()
            for row in self.rows():
                if row["sequence"] not in (None, "–"):
                    found[row["row"]] = int(row["sequence"])
            if len(found) == before:
                return [found[row] for row in sorted(found)]
            self.page.evaluate(
                "() => { const e = document.getElementById('events');"
                " e.scrollTop += e.clientHeight - 60; }"
            )
            self.page.evaluate(NEXT_FRAME)
