"""The AI SDK: `useChat` with `resume`, and WorkflowChatTransport."""

import time

from flask import Blueprint, Response, abort

from ...streaming.event import check_run_id
from ...streaming.wire.answer import AnswerEvents
from ...streaming.wire.dialects import AI_SDK
from ..access.access import declares
from ..schemas import Query, WholeNumberField
from .answers import Answer, event_of, find_answer, open_answer

blueprint = Blueprint("compat-ai-sdk", __name__, url_prefix="/compat/ai-sdk")

# A client may have been cut off before the end of an answer without knowing it. So an answer is
# still sent for so long after its end; then there is nothing to resume.
RESUMABLE_SECONDS = 60

MAX_INDEX = 10**15

_HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}


class _ResumeQuery(Query):
    """The query of WorkflowChatTransport; `useChat` sends none."""

    start_index = WholeNumberField(
        -MAX_INDEX, MAX_INDEX, "The first chunk, from 0; a negative one counts from the end."
    )
    start_index.data_key = "startIndex"


_query = _ResumeQuery()


@blueprint.get("/<any_run_id:run_id>/stream")
@declares("read")
def resume(run_id: str) -> Response:
    """Stream the answer of a chat: all of it, or from the chunk `startIndex`.

    204 says that there is nothing to resume.
    """
    check_run_id(run_id)
    number = _query.of_request()["start_index"]
    answer = find_answer(run_id)
    headers = {**_HEADERS, "x-workflow-run-id": run_id}
    if number is None:
        if answer is None or _is_over(answer):
            return Response(status=204)
        return open_answer(run_id, answer.start, AnswerEvents(dialect=AI_SDK), headers)
    if answer is None:
        abort(404, f"run {run_id} has no log")
    # This client asks again after a proper end, and gives up after three others.
    wire = AnswerEvents(dialect=AI_SDK, cuts=False)
    start, chunks = event_of(number, answer, wire, "startIndex")
    headers["x-workflow-stream-tail-index"] = str(chunks - 1)
    return open_answer(run_id, start, wire, headers)


def _is_over(answer: Answer) -> bool:
    return answer.ended_at is not None and answer.ended_at + RESUMABLE_SECONDS < time.time()
