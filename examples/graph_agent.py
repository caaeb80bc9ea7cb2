"""An agent that is a graph of steps, with a tool, tokens and a cancel button."""

import argparse
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from app.client import Client  # an installed Tailrace has it as tailrace.client, and so on
from app.streaming.appender import Appender
from app.streaming.errors import StreamingError

URL = os.environ.get("TAILRACE_URL", "http://127.0.0.1:8082")

FACTS = {
    "tides": "The moon pulls at the sea.",
    "waves": "The wind pushes the sea.",
    "currents": "The sun warms the sea.",
}


class Cancelled(Exception):
    """Somebody has requested that the agent stops."""


@dataclass
class State:
    """What the steps know, and pass on to each other."""

    question: str
    topics: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    answer: str = ""


class Run:
    """What the agent tells its run. A request to cancel ends it at the next thing that it tells."""

    def __init__(self, appender: Appender, cancelled: threading.Event, pace: float) -> None:
        self._appender = appender
        self._cancelled = cancelled
        self._pace = pace

    def tell(self, category: str, action: str, data: Any) -> None:
        if self._cancelled.wait(self._pace):  # the agent would be too fast for a person
            raise Cancelled
        self._appender.emit(category, action, data)

    def call(self, tool: Callable[[str], str], argument: str) -> str:
        """Call a tool, and tell about it."""
        self.tell("tool", "called", {"tool": tool.__name__, "argument": argument})
        result = tool(argument)
        self.tell("tool", "answered", {"tool": tool.__name__, "result": result})
        return result

    def stream(self, tokens: Iterator[str]) -> str:
        """Tell the tokens of a model as they come; return the whole text."""
        text = ""
        for token in tokens:
            self.tell("llm", "stream", {"content": token})
            text += token
        return text


# The model and the tool: put yours here.


def model(prompt: str) -> Iterator[str]:
    for word in prompt.split():
        yield f"{word} "


def search(topic: str) -> str:
    return FACTS[topic]


# The steps. Each returns the name of the next one, None at the end.


def plan(state: State, run: Run) -> str:
    words = state.question.lower().strip("?").split()
    state.topics = [word for word in words if word in FACTS]
    return "research" if state.topics else "write"


def research(state: State, run: Run) -> str:
    state.found.append(run.call(search, state.topics.pop(0)))
    return "research" if state.topics else "write"


def write(state: State, run: Run) -> None:
    state.answer = run.stream(model(" ".join(state.found) or "I do not know."))


GRAPH: dict[str, Callable[[State, Run], str | None]] = {
    "plan": plan,
    "research": research,
    "write": write,
}


def walk(state: State, run: Run) -> None:
    """Take one step after the other, until one names no next one."""
    name: str | None = "plan"
    while name is not None:
        run.tell("agent", "step", {"name": name})
        name = GRAPH[name](state, run)


def obey(client: Client, run_id: str, started: str, cancelled: threading.Event) -> None:
    """Wait for requests that come after the event `started`, until the run has ended."""
    for request in client.requests(run_id, started):
        if request.action == "cancel":
            cancelled.set()


def run_agent(client: Client, run_id: str, question: str, pace: float) -> str:
    """Run the agent; return how it ended."""
    cancelled = threading.Event()
    started = client.add(run_id, "lifecycle", "started", {"question": question}, lease_seconds=60)
    watch = threading.Thread(target=obey, args=(client, run_id, started, cancelled), daemon=True)
    watch.start()
    state = State(question)
    with client.appender(run_id) as appender:
        try:
            walk(state, Run(appender, cancelled, pace))
            end, data = "completed", {"answer": state.answer}
        except (Cancelled, KeyboardInterrupt):
            end, data = "cancelled", {"answer": state.answer}
        except Exception as error:
            end, data = "failed", {"error": str(error)}
        appender.emit("lifecycle", end, data)
    watch.join()
    return end


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_id")
    parser.add_argument("question", nargs="?", default="What makes tides and waves?")
    parser.add_argument("--pace", type=float, default=0.1, help="seconds between two events")
    options = parser.parse_args()
    print(f"{URL}/ui/runs/{options.run_id}", flush=True)
    with Client(URL) as client:
        end = run_agent(client, options.run_id, options.question, options.pace)
    print(end)
    return {"completed": 0, "failed": 1, "cancelled": 130}[end]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StreamingError as error:
        sys.exit(f"{URL}: {error}")
