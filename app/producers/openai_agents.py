"""Recorders for the OpenAI Agents SDK, which send what an agent does as events of a run."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

try:
    from agents import Runner
except ImportError as error:
    message = "RunRecorder requires openai-agents: install Tailrace with [openai-agents]"
    raise ImportError(message) from error

from .outbox import TakesEvents, keep_going
from .run_events import RunEvents

_TEXTS = {
    "response.output_text.delta": "llm",
    "response.refusal.delta": "llm",
    "response.reasoning_text.delta": "reasoning",
    "response.reasoning_summary_text.delta": "reasoning",
}


class RunRecorder:
    """Records agents whose stream is read through it.

    Each stream begins and ends the run. In between there are `llm.stream` with the text of
    models, `reasoning.stream`, `llm.called` and `.answered`, `tool.called` and `.answered`, and
    `agent.updated` when another agent goes on. Code that stops reading should close the stream.

    Args:
        run: an Appender, an AsyncAppender, or RunEvents.
        lease_seconds: see RunEvents.
    """

    def __init__(self, run: TakesEvents | RunEvents, *, lease_seconds: int | None = None):
        self._events = RunEvents.of(run, lease_seconds)

    async def run(self, agent: Any, input: Any, **options: Any) -> Any:
        """Do what `Runner.run` does, by `Runner.run_streamed`, and return that one's result."""
        result = Runner.run_streamed(agent, input, **options)
        async for _ in self.stream_events(result):
            pass
        return result

    async def stream_events(self, result: Any) -> AsyncIterator[Any]:
        """Yield what `stream_events` of a result yields."""
        stream = _Stream(self._events, result.current_agent.name)
        self._events.begin(stream, {"name": stream.agent, "input": result.input})
        streamed = result.stream_events()
        try:
            async for event in streamed:
                with keep_going():
                    stream.note(event)
                yield event
        except BaseException as error:
            self._events.fail(stream, error)
            raise
        else:
            self._events.end(stream, *_outcome(result))
        finally:
            await streamed.aclose()

    def on_stream(self, event: Any) -> None:
        """Record an agent that is a tool: `agent.as_tool(…, on_stream=recorder.on_stream)`."""
        with keep_going():
            source = {"tool_call_id": getattr(event["tool_call"], "call_id", None)}
            _Stream(self._events, event["agent"].name, source).note(event["event"])


class _Stream:
    """What is known of one stream."""

    def __init__(self, events: RunEvents, agent: str, source: dict[str, Any] | None = None):
        self.agent = agent
        self._events = events
        self._source = source or {}
        self._has_text = source is not None  # of a tool's model, the text comes in pieces only

    def note(self, event: Any) -> None:
        """Have an event of the stream appended, if viewers need it."""
        if event.type == "raw_response_event":
            self._note_response(event.data)
        elif event.type == "agent_updated_stream_event":
            self.agent = event.new_agent.name
            self._emit("agent", "updated", {"name": self.agent})
        elif event.type == "run_item_stream_event" and event.name == "tool_called":
            self._emit("tool", "called", _call_of(event.item))
        elif event.type == "run_item_stream_event" and event.name == "tool_output":
            answer = {"call_id": event.item.call_id, "output": event.item.output}
            self._emit("tool", "answered", answer)

    def _note_response(self, data: Any) -> None:
        kind = getattr(data, "type", None)
        if kind in _TEXTS and data.delta:
            self._has_text |= _TEXTS[kind] == "llm"
            self._emit(_TEXTS[kind], "stream", {"content": data.delta})
        elif kind == "response.created":
            self._has_text = bool(self._source)
            self._emit("llm", "called", {"call_id": data.response.id, "name": data.response.model})
        elif kind == "response.completed":
            text = "" if self._has_text else data.response.output_text
            if text:
                self._emit("llm", "stream", {"content": text})
            self._has_text = bool(self._source)
            answer = {"call_id": data.response.id, "usage": data.response.usage}
            self._emit("llm", "answered", answer)

    def _emit(self, category: str, action: str, data: dict[str, Any]) -> None:
        self._events.emit(category, action, data, {"agent": self.agent, **self._source})


def _call_of(item: Any) -> dict[str, Any]:
    arguments: Any = getattr(item.raw_item, "arguments", None)
    with contextlib.suppress(TypeError, ValueError):  # the model's mistake, or no text
        arguments = json.loads(arguments)
    return {"call_id": item.call_id, "tool": item.tool_name, "arguments": arguments}


def _outcome(result: Any) -> tuple[str, Any]:
    """Return how a stream has ended that was read to its end."""
    if result.interruptions:  # a new stream goes on after that
        return "completed", {"waits_for_approval": [each.name for each in result.interruptions]}
    if result.final_output is None:
        return "cancelled", {"reason": "the run was cancelled"}
    return "completed", {"output": result.final_output}
