"""A callback handler for LangChain and LangGraph, which sends what happens as events of a run."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

try:
    from langchain_core.callbacks import BaseCallbackHandler
except ImportError as error:
    message = "RunCallbackHandler requires langchain-core: install Tailrace with [langchain]"
    raise ImportError(message) from error

from .call_tree import CHAIN, CallTree
from .outbox import TakesEvents
from .run_events import RunEvents


class RunCallbackHandler(BaseCallbackHandler):
    """Pass it as one of the `callbacks` of a call: `config={"callbacks": [handler]}`.

    The outermost call begins and ends the run. In between there are `llm.stream` with the text of
    models, `reasoning.stream`, and `called`, `answered`, `failed` or `stopped` of each model,
    tool and retriever. A stream that is closed before its end cancels the run.

    Args:
        run: an Appender, an AsyncAppender, or RunEvents.
        stream: have models stream that are called without a stream, as LangGraph does for
            `stream_mode="messages"`. Leave it out with `astream_events`.
        lease_seconds: see RunEvents.
    """

    run_inline = True  # in the order of the calls, not in threads

    def __init__(
        self,
        run: TakesEvents | RunEvents,
        *,
        stream: bool = False,
        lease_seconds: int | None = None,
    ):
        super().__init__()
        self._calls = CallTree(RunEvents.of(run, lease_seconds))
        if stream:  # a model streams for a handler that has these
            self.tap_output_iter = self.tap_output_aiter = _unchanged

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        is_unknown = inputs == {"input": ""}  # of a stream, whose input comes in pieces
        self._begin(CHAIN, serialized, None if is_unknown else inputs, **kwargs)

    def on_llm_start(self, serialized: Any, prompts: Any, **kwargs: Any) -> None:
        self._begin("llm", serialized, prompts, **kwargs)

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self._begin("llm", serialized, messages, **kwargs)

    def on_retriever_start(self, serialized: Any, query: Any, **kwargs: Any) -> None:
        self._begin("retriever", serialized, query, **kwargs)

    def on_tool_start(self, serialized: Any, input_str: Any, **kwargs: Any) -> None:
        arguments = kwargs.get("inputs")
        self._begin("tool", serialized, input_str if arguments is None else arguments, **kwargs)

    def _begin(
        self,
        kind: str,
        serialized: Any,
        given: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        name: str | None = None,
        metadata: dict[str, Any] | None = None,
        tool_call_id: str | None = None,
        **_: Any,
    ) -> None:
        called = name or _name_of(serialized) or kind
        source = {"call_id": str(run_id), "name": called}
        if (node := (metadata or {}).get("langgraph_node")) is not None:
            source["node"] = node
        call_id = tool_call_id or str(run_id)
        self._calls.begin(
            run_id, parent_run_id, kind, called, given, call_id=call_id, source=source
        )

    def on_llm_new_token(
        self, token: Any, *, run_id: UUID, chunk: Any = None, **kwargs: Any
    ) -> None:
        content = getattr(getattr(chunk, "message", None), "content", token)
        self._add_texts(run_id, content, "tokens")

    def on_stream_event(self, event: Any, *, run_id: UUID, **kwargs: Any) -> None:
        if event.get("event") == "content-block-delta":
            self._add_texts(run_id, event["delta"], "protocol")

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        generation = next((each[0] for each in response.generations if each), None)
        message = getattr(generation, "message", None)
        content = getattr(message, "content", getattr(generation, "text", ""))
        if not self._calls.has_streamed(run_id):
            self._add_texts(run_id, content, "end")
        usage = getattr(message, "usage_metadata", None)
        self._calls.end(run_id, "answered", {"usage": usage} if usage else {}, content)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        content = getattr(output, "content", output)
        failed = getattr(output, "status", None) == "error"
        action, member = ("failed", "error") if failed else ("answered", "output")
        self._calls.end(run_id, action, {member: content}, content)

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._calls.end(run_id, "answered", {"documents": len(documents)}, documents)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._calls.end(run_id, "ended", {}, outputs)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        # LangGraph pauses a graph so, for example to ask a person.
        is_pause = any(each.__name__ == "GraphBubbleUp" for each in type(error).__mro__)
        self._calls.fail(run_id, error, is_pause=is_pause)

    on_chain_error = on_tool_error = on_retriever_error = on_llm_error

    def _add_texts(self, run_id: UUID, content: Any, way: str) -> None:
        for category, text in _texts_of(content):
            self._calls.add_text(run_id, category, text, way)


def _unchanged(run_id: UUID, output: Any) -> Any:
    return output


def _name_of(serialized: Any) -> str | None:
    given = serialized or {}
    return given.get("name") or next(reversed(given.get("id") or []), None)


def _texts_of(content: Any) -> Iterator[tuple[str, str]]:
    """Yield category and text of each block of a message's content that has text."""
    for block in [content] if isinstance(content, str | dict) else content or ():
        text, thought = (block, None) if isinstance(block, str) else (block.get("text"), None)
        if not isinstance(block, str):
            thought = block.get("reasoning") or block.get("thinking")
        for category, each in (("reasoning", thought), ("llm", text)):
            if isinstance(each, str) and each:
                yield category, each
