"""An agent that streams its tokens into a run, and stops on request, with httpx alone."""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import httpx

URL = os.environ.get("TAILRACE_URL", "http://127.0.0.1:8082")


def model(prompt: str) -> Iterator[str]:
    """Stand in for a model: put yours here."""
    if not prompt:
        raise ValueError("the prompt is empty")
    for word in f"You said: {prompt}".split():
        time.sleep(0.1)
        yield f"{word} "


class GatewayError(Exception):
    """The gateway refused a request, for the reason in its problem details."""


def check(response: httpx.Response) -> dict:
    """Return what the gateway answered; raise GatewayError if that is an error."""
    if response.is_success:
        return response.json()
    reasons = [response.reason_phrase]
    if response.headers.get("Content-Type") == "application/problem+json":
        problem = response.json()
        fields = [f"{each['field']}: {each['detail']}" for each in problem.get("errors", ())]
        reasons = fields or [problem["detail"]]
    raise GatewayError(f"{response.status_code}: {'; '.join(reasons)}")


def event(category: str, action: str, data: object = None, **options: object) -> dict:
    return {"event_category": category, "event_action": action, "data": data, **options}


def stream(gateway: httpx.Client, path: str, tokens: Iterator[str]) -> dict:
    """Append each token as soon as the model yields it, all in one long request.

    If the model raises, the body still ends properly, and the exception is raised after the
    answer. The next append then comes after every token, and none is lost.
    """
    raised: BaseException | None = None

    def lines() -> Iterator[bytes]:
        nonlocal raised
        try:
            for token in tokens:
                yield json.dumps(event("llm", "stream", {"content": token})).encode() + b"\n"
        except (Exception, KeyboardInterrupt) as error:
            raised = error

    headers = {"Content-Type": "application/x-ndjson"}
    answer = check(gateway.post(path, content=lines(), headers=headers))
    if raised is not None:
        raise raised
    return answer


def ids_of(page: dict) -> list[str]:
    return [each["id"] for each in page["events"]]


def obey_requests(path: str, last_id: str) -> None:
    """Interrupt the agent, as Ctrl-C does, once somebody requests `cancel` of it."""
    query = {"category": "request", "after": last_id, "wait": 50}
    with httpx.Client(base_url=URL, timeout=60) as gateway:
        while True:
            try:
                page = check(gateway.get(path, params=query))
            except (GatewayError, httpx.HTTPError):
                time.sleep(1)
                continue
            if any(each["event"]["action"] == "cancel" for each in page["events"]):
                os.kill(os.getpid(), signal.SIGINT)
                return
            if page["ended"]:
                return
            query["after"] = page["next"] or [query["after"], *ids_of(page)][-1]


def run_agent(gateway: httpx.Client, run_id: str, prompt: str, lease_seconds: int) -> None:
    """Run the agent once. The run's last event says how that ended."""
    path = f"/runs/{run_id}/events"

    def append(action: str, data: object = None, **options: object) -> str:
        return check(gateway.post(path, json=event("lifecycle", action, data, **options)))["id"]

    # If nothing is appended for so long, the agent is dead: the run ends as lifecycle.lost.
    started = append("started", {"prompt": prompt}, lease_seconds=lease_seconds)
    threading.Thread(target=obey_requests, args=(path, started), daemon=True).start()
    try:
        answer = stream(gateway, path, model(prompt))
    except KeyboardInterrupt:
        append("cancelled")
        raise
    except Exception as error:
        append("failed", {"error": str(error)})
        raise
    append("completed", {"tokens": answer["stored"]})
    print(f"{answer['stored']} tokens are in run {run_id}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_id")
    parser.add_argument("prompt")
    parser.add_argument("--lease", type=int, default=60, help="seconds (default: 60)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cancels, as Ctrl-C does
    connecting = httpx.HTTPTransport(retries=3)  # repeats only what was never sent
    with httpx.Client(base_url=URL, transport=connecting, timeout=60) as gateway:
        run_agent(gateway, options.run_id, options.prompt, options.lease)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (GatewayError, httpx.HTTPError) as error:
        sys.exit(f"{URL}: {error}")
