"""A worker that runs jobs in threads, each with a run of its own, and then follows one of them."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from app.client import Client  # an installed Tailrace has it as tailrace.client
from app.streaming.errors import StreamingError  # and this as tailrace.streaming.errors

URL = os.environ.get("TAILRACE_URL", "http://127.0.0.1:8082")

JOBS = {
    "users": ["ada", "grace", "edsger"],
    "orders": ["7", "19", "x23", "42"],
    "invoices": ["2025-01", "2025-02"],
}


def import_rows(rows: list[str]) -> Iterator[str]:
    """Stand in for real work: put yours here."""
    for row in rows:
        if row.startswith("x"):
            raise ValueError(f"the row {row!r} is broken")
        yield row


def run_job(client: Client, run_id: str, rows: list[str]) -> str:
    """Run one job, with its progress as events; return how it ended.

    The appender sends events in the background, in order. It is closed at the end of the
    block: there it waits until all are stored, and raises what went wrong.
    """
    with client.appender(run_id) as run:
        run.emit("lifecycle", "started", {"rows": len(rows)}, lease_seconds=60)
        try:
            for done, row in enumerate(import_rows(rows), start=1):
                run.emit("job", "progress", {"row": row, "done": done})
        except Exception as error:
            run.emit("lifecycle", "failed", {"error": str(error)})
            return "failed"
        run.emit("lifecycle", "completed")
        return "completed"


def main(batch: str) -> int:
    """Run all jobs of a batch; return the exit status: 1 if one of them failed."""
    with Client(URL) as client, ThreadPoolExecutor(max_workers=2) as threads:
        futures = {
            f"{batch}-{name}": threads.submit(run_job, client, f"{batch}-{name}", rows)
            for name, rows in JOBS.items()
        }
        for run_id, future in futures.items():
            print(run_id, future.result())

        print(f"the events of {batch}-orders:")
        for event in client.follow(f"{batch}-orders"):
            if event.category != "gateway":  # which tells about the stream, not the run
                print(event.sequence, event.name, event.data)
        return int(any(future.result() == "failed" for future in futures.values()))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} BATCH")
    try:
        sys.exit(main(sys.argv[1]))
    except StreamingError as error:
        sys.exit(f"{URL}: {error}")
