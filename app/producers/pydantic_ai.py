"""A capability for Pydantic AI, which sends what an agent does as events of a run."""

import contextlib
from contextvars import ContextVar
from typing import Any

try:
    from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
    from pydantic_ai.exceptions import RunCancelled, RunTimedOut
except ImportError as error:
    message = "RunCapability requires pydantic-ai-slim: install Tailrace with [pydantic-ai]"
    raise ImportError(message) from error

from .outbox import TakesEvents, keep_going
from .plain import text_of_error
from .run_events import RunEvents, outcome_of

# The runs that this code is inside of.
_inside: ContextVar[tuple[RunEvents, ...]] = ContextVar("tailrace_runs", default=())


class RunCapability(AbstractCapability[Any]):
    """Pass it as one of the `capabilities` of an agent, or of a call of `run`.

    The outermost agent begins and ends the run. In between there are `llm.stream` with the text
    of models, `reasoning.stream`, and `called`, `answered` or `failed` of each model and each
    tool. Agents that tools run are recorded too, if they have it.

    Args:
        run: an Appender, an AsyncAppender, or RunEvents.
        lease_seconds: see RunEvents.
    """

    def __init__(self, run: TakesEvents | RunEvents, *, lease_seconds: int | None = None):
        super().__init__()
        self._events = RunEvents.of(run, lease_seconds)

    @classmethod
    def get_serialization_name(cls) -> str | None:
        return None  # a specification cannot hold an appender

    def get_ordering(self) -> Any:
        return CapabilityOrdering(position="outermost")

    async def wrap_run(self, ctx: Any, *, handler: Any) -> Any:
        if self._events in _inside.get():  # a tool of another agent runs this one
            return await handler()
        call = object()
        token = _inside.set((*_inside.get(), self._events))
        started = {"name": _agent(ctx), "input": ctx.prompt}
        self._events.begin(call, started, may_hold_others=False)
        try:
            result = await handler()
        except BaseException as error:
            self._events.end(call, *_outcome_of(error))
            raise
        finally:
            with contextlib.suppress(ValueError):  # it was closed from another context
                _inside.reset(token)
        self._events.end(call, "completed", {"output": result.output})
        return result

    async def wrap_model_request(self, ctx: Any, *, request_context: Any, handler: Any) -> Any:
        name = getattr(ctx.model, "model_name", None)
        model = {"call_id": f"{ctx.run_id}/{ctx.run_step}", "name": name}
        self._emit(ctx, "llm", "called", model)
        try:
            response = await handler(request_context)
        except BaseException as error:
            is_stopped = _outcome_of(error)[0] == "cancelled"
            action, member = ("stopped", "reason") if is_stopped else ("failed", "error")
            self._emit(ctx, "llm", action, {**model, member: text_of_error(error)})
            raise
        self._emit(ctx, "llm", "answered", {**model, "usage": _usage(response)})
        return response

    async def on_tool_execute_error(self, ctx: Any, *, call: Any, error: Any, **_: Any) -> Any:
        failed = {"call_id": call.tool_call_id, "tool": call.tool_name}
        self._emit(ctx, "tool", "failed", {**failed, "error": text_of_error(error)})
        raise error

    async def on_event(self, ctx: Any, *, event: Any) -> None:
        with keep_going():
            self._note(ctx, event)

    def _note(self, ctx: Any, event: Any) -> None:
        kind = event.event_kind
        if kind == "part_start" and event.part.part_kind in ("text", "thinking"):
            self._add_text(ctx, event.part.part_kind, event.part.content)
        elif kind == "part_delta" and event.delta.part_delta_kind in ("text", "thinking"):
            self._add_text(ctx, event.delta.part_delta_kind, event.delta.content_delta)
        elif kind == "function_tool_call":
            call = {"call_id": event.part.tool_call_id, "tool": event.part.tool_name}
            self._emit(ctx, "tool", "called", {**call, "arguments": event.part.args_as_dict()})
        elif kind == "function_tool_result":
            call = {"call_id": event.part.tool_call_id, "tool": event.part.tool_name}
            succeeded = getattr(event.part, "outcome", None) == "success"
            action, member = ("answered", "output") if succeeded else ("failed", "error")
            self._emit(ctx, "tool", action, {**call, member: event.part.content})

    def _add_text(self, ctx: Any, kind: str, text: str | None) -> None:
        if text:
            category = "llm" if kind == "text" else "reasoning"
            self._emit(ctx, category, "stream", {"content": text})

    def _emit(self, ctx: Any, category: str, action: str, data: dict[str, Any]) -> None:
        self._events.emit(category, action, data, {"agent": _agent(ctx), "run_id": ctx.run_id})


def _agent(ctx: Any) -> str:
    return getattr(getattr(ctx, "agent", None), "name", None) or "agent"


def _usage(response: Any) -> dict[str, Any]:
    usage = getattr(response, "usage", None)
    return {name: getattr(usage, name, None) for name in ("input_tokens", "output_tokens")}


def _outcome_of(error: BaseException) -> tuple[str, Any]:
    if isinstance(error, RunCancelled) and not isinstance(error, RunTimedOut):
        return "cancelled", {"reason": text_of_error(error)}
    return outcome_of(error)
