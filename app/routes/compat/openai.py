"""OpenAI's Responses: a response that goes on in the background is retrieved as a stream."""

from flask import Blueprint, Response, abort
from marshmallow import fields

from ...streaming.errors import InvalidInput
from ...streaming.event import check_run_id
from ...streaming.follow.start import Start
from ...streaming.wire.answer import AnswerEvents
from ...streaming.wire.dialects import OPENAI
from ..access.access import declares
from ..schemas import Query, WholeNumberField
from .answers import Answer, find_answer, open_answer

blueprint = Blueprint("compat-openai", __name__, url_prefix="/compat/openai/v1")

MAX_SEQUENCE_NUMBER = 10**15


class _RetrieveQuery(Query):
    """The query of `responses.retrieve`."""

    stream = fields.Boolean(load_default=False, truthy={"true"}, falsy={"false"})
    starting_after = WholeNumberField(
        0, MAX_SEQUENCE_NUMBER, "The `sequence_number` of the last chunk that the client has."
    )


_query = _RetrieveQuery()


@blueprint.get("/responses/<any_run_id:run_id>")
@declares("read")
def retrieve(run_id: str) -> Response:
    """Stream a response: all of it, or what follows the chunk `starting_after`."""
    check_run_id(run_id)
    query = _query.of_request()
    if not query["stream"]:
        raise InvalidInput("stream", "must be true: a response is kept as a stream only")
    answer = find_answer(run_id)
    if answer is None:
        abort(404, f"run {run_id} has no log")
    wire, number = AnswerEvents(dialect=OPENAI), query["starting_after"]
    start = answer.start if number is None else _start_after(number, answer, wire)
    return open_answer(run_id, start, wire)


def _start_after(number: int, answer: Answer, wire: AnswerEvents) -> Start:
    """Return where a stream starts after a chunk. Raises InvalidInput if there is none of it."""
    for index, event in enumerate(answer.chunks(wire)):
        found = event.data.get("sequence_number", index)
        if found == number and event.sequence is not None:
            return Start(sequence=event.sequence + 1)
    raise InvalidInput("starting_after", f"the response has no chunk {number}")
