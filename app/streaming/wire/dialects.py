"""The dialects: how streams of models and of their frameworks begin, end and fail."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

DONE = "[DONE]"
"""What many streams send last: it ends the stream, and is no event."""

# The name of an SSE event that has no `event:` line (HTML Living Standard, section 9.2.6).
MESSAGE = "message"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What the chunks of a stream mean for the run.

    The kind of a chunk is the member `type` of its data, or its `event:` name if `by_name`.

    Attributes:
        begins: the kinds with which an answer begins.
        completes: the kinds with which it ends well.
        fails: the kinds that say that it has failed.
    """

    name: str
    begins: Set[str] = frozenset()
    completes: Set[str] = frozenset()
    cancels: Set[str] = frozenset()
    fails: Set[str] = frozenset()
    by_name: bool = False

    def kind(self, name: str, data: Any) -> str | None:
        """Return the kind of a chunk, None if it has none."""
        if self.by_name:
            return name
        kind = data.get("type") if isinstance(data, dict) else None
        return kind if isinstance(kind, str) else None


RAW = Dialect("raw")

AI_SDK = Dialect(
    "ai-sdk",
    begins=frozenset({"start"}),
    completes=frozenset({"finish"}),
    cancels=frozenset({"abort"}),
    fails=frozenset({"error"}),
)
"""The UI message stream of the AI SDK, from version 5."""

AG_UI = Dialect(
    "ag-ui",
    begins=frozenset({"RUN_STARTED"}),
    completes=frozenset({"RUN_FINISHED"}),
    fails=frozenset({"RUN_ERROR"}),
)
"""AG-UI, which TanStack AI speaks too."""

OPENAI = Dialect(
    "openai",
    begins=frozenset({"response.created"}),
    completes=frozenset({"response.completed", "response.incomplete"}),
    fails=frozenset({"response.failed", "error"}),
)
"""OpenAI's Responses, and its Chat Completions, which end with `[DONE]`."""

LANGGRAPH = Dialect(
    "langgraph",
    begins=frozenset({"metadata"}),
    completes=frozenset({"end"}),
    fails=frozenset({"error"}),
    by_name=True,
)
"""The streams of a LangGraph server, whose events have names."""

DIALECTS = {each.name: each for each in (RAW, AI_SDK, AG_UI, OPENAI, LANGGRAPH)}
