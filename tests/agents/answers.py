"""A fake model's answer in each dialect: about 200 chunks, as its framework sends them."""

import json
from collections.abc import Iterator
from typing import NamedTuple

# What a chunk may not break: signs of four bytes, of several code points, and of other scripts;
# what ends a line for some programs; what JSON escapes.
_ODD = ["👩‍👩‍👧", "日本語", "é\u0301", "\u2028", "\u2029\u0085", '"\\', "\n\n", "\r\n", "data: x\n",
        "\t\x0b", "مرحبا", "𝒳", "&amp;", "\u200d", "[DONE]"]  # fmt: skip

PIECES = [f"{number} {_ODD[number % len(_ODD)]}" for number in range(200)]
TEXT = "".join(PIECES)
ARGUMENTS = json.dumps({"city": "Zürich\u2028", "days": [1, 2]}, ensure_ascii=False)
_ARGUMENT_PIECES = [ARGUMENTS[at : at + 6] for at in range(0, len(ARGUMENTS), 6)]
RESULT = {"degrees": 21.5, "sky": "☀️"}


class Chunk(NamedTuple):
    """An SSE event of a model's stream: its data, and its `event:` name where it has one."""

    data: dict | list
    name: str = "message"

    @property
    def event(self) -> dict:
        """Return the event that Tailrace stores of it."""
        action = "".join(sign if sign.isalnum() else "_" for sign in self.name)
        event = {"event_category": "sse", "event_action": action, "data": self.data}
        return event if action == self.name else {**event, "source": {"sse": {"event": self.name}}}


def ai_sdk(run_id: str) -> Iterator[dict]:
    """Yield the UI message stream of the AI SDK, with reasoning, a tool and two steps."""
    yield {"type": "start", "messageId": f"answer-{run_id}"}
    yield {"type": "start-step"}
    yield {"type": "reasoning-start", "id": "r"}
    yield {"type": "reasoning-delta", "id": "r", "delta": "Weather?"}
    yield {"type": "reasoning-end", "id": "r"}
    yield {"type": "tool-input-start", "toolCallId": "c", "toolName": "weather"}
    for piece in _ARGUMENT_PIECES:
        yield {"type": "tool-input-delta", "toolCallId": "c", "inputTextDelta": piece}
    of_tool = {"toolCallId": "c", "toolName": "weather"}
    yield {"type": "tool-input-available", **of_tool, "input": json.loads(ARGUMENTS)}
    yield {"type": "tool-output-available", "toolCallId": "c", "output": RESULT}
    yield {"type": "finish-step"}
    yield {"type": "start-step"}
    yield {"type": "text-start", "id": "t"}
    for piece in PIECES:
        yield {"type": "text-delta", "id": "t", "delta": piece}
    yield {"type": "text-end", "id": "t"}
    yield {"type": "finish-step"}
    yield {"type": "finish", "finishReason": "stop"}


def ag_ui(run_id: str) -> Iterator[dict]:
    """Yield the events of an AG-UI run, with a tool, a state and steps."""
    yield {"type": "RUN_STARTED", "threadId": "thread", "runId": run_id}
    yield {"type": "STEP_STARTED", "stepName": "look"}
    yield {"type": "STATE_SNAPSHOT", "snapshot": {"seen": 0}}
    yield {"type": "STATE_DELTA", "delta": [{"op": "replace", "path": "/seen", "value": 1}]}
    call = {"toolCallId": "c"}
    yield {"type": "TOOL_CALL_START", **call, "toolCallName": "weather", "parentMessageId": "m"}
    for piece in _ARGUMENT_PIECES:
        yield {"type": "TOOL_CALL_ARGS", **call, "delta": piece}
    yield {"type": "TOOL_CALL_END", **call}
    result = json.dumps(RESULT, ensure_ascii=False)
    yield {"type": "TOOL_CALL_RESULT", **call, "messageId": "result", "content": result}
    yield {"type": "STEP_FINISHED", "stepName": "look"}
    yield {"type": "TEXT_MESSAGE_START", "messageId": "n", "role": "assistant"}
    for piece in PIECES:
        yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": "n", "delta": piece}
    yield {"type": "TEXT_MESSAGE_END", "messageId": "n"}
    yield {"type": "CUSTOM", "name": "cost", "value": {"cents": 1}}
    yield {"type": "RUN_FINISHED", "threadId": "thread", "runId": run_id}


def openai(run_id: str) -> Iterator[dict]:
    """Yield the stream of a response of OpenAI's, with a function call."""
    for number, chunk in enumerate(_openai(run_id)):
        yield {**chunk, "sequence_number": number}


def _openai(run_id: str) -> Iterator[dict]:
    response = {
        **{"id": run_id, "object": "response", "created_at": 1764288000.5, "model": "fake"},
        **{"output": [], "parallel_tool_calls": True, "tool_choice": "auto", "tools": []},
    }
    yield {"type": "response.created", "response": {**response, "status": "in_progress"}}
    yield {"type": "response.in_progress", "response": {**response, "status": "in_progress"}}
    call = {"type": "function_call", "id": "f", "call_id": "c", "name": "weather"}
    item = {"output_index": 0, "item_id": "f"}
    added = {**call, "arguments": "", "status": "in_progress"}
    yield {"type": "response.output_item.added", "output_index": 0, "item": added}
    for piece in _ARGUMENT_PIECES:
        yield {"type": "response.function_call_arguments.delta", **item, "delta": piece}
    arguments = {"arguments": ARGUMENTS, "name": "weather"}
    yield {"type": "response.function_call_arguments.done", **item, **arguments}
    called = {**call, "arguments": ARGUMENTS, "status": "completed"}
    yield {"type": "response.output_item.done", "output_index": 0, "item": called}
    message = {"id": "m", "type": "message", "role": "assistant"}
    added = {**message, "content": [], "status": "in_progress"}
    yield {"type": "response.output_item.added", "output_index": 1, "item": added}
    part = {"output_index": 1, "item_id": "m", "content_index": 0}
    text = {"type": "output_text", "annotations": []}
    yield {"type": "response.content_part.added", **part, "part": {**text, "text": ""}}
    for piece in PIECES:
        yield {"type": "response.output_text.delta", **part, "delta": piece, "logprobs": []}
    yield {"type": "response.output_text.done", **part, "text": TEXT, "logprobs": []}
    yield {"type": "response.content_part.done", **part, "part": {**text, "text": TEXT}}
    said = {**message, "content": [{**text, "text": TEXT}], "status": "completed"}
    yield {"type": "response.output_item.done", "output_index": 1, "item": said}
    done = {**response, "output": [called, said], "status": "completed"}
    yield {"type": "response.completed", "response": done}


def langgraph(run_id: str) -> Iterator[Chunk]:
    """Yield the stream of a run of LangGraph, in the modes messages, updates, custom and values."""
    yield Chunk({"run_id": run_id, "attempt": 1}, "metadata")
    call = {"name": "weather", "args": json.loads(ARGUMENTS), "id": "c", "type": "tool_call"}
    yield Chunk({"agent": {"messages": [{"type": "ai", "tool_calls": [call]}]}}, "updates")
    yield Chunk({"weather": RESULT}, "updates|tools:8b1f")
    yield Chunk({"progress": 0.5}, "custom")
    of_node = {"langgraph_node": "agent", "langgraph_step": 3}
    for piece in PIECES:
        chunk = {"content": piece, "type": "AIMessageChunk", "id": "m", "tool_calls": []}
        yield Chunk([chunk, of_node], "messages")
    yield Chunk({"messages": [{"type": "ai", "content": TEXT, "id": "m"}]}, "values")


def answer(dialect: str, run_id: str) -> list[Chunk]:
    """Return the chunks of an answer."""
    if dialect == "langgraph":
        return list(langgraph(run_id))
    make = {"ai-sdk": ai_sdk, "ag-ui": ag_ui, "openai": openai}[dialect]
    return [Chunk(data) for data in make(run_id)]
