"""The commands `append` and `request`, which append one event each."""

import click
import orjson

from .completion import RunParameter
from .connection import Connection, connects
from .given_json import json_argument, new_event_of, text_argument
from .output.terminal import write

_HINT = "; for a plain text, use --text"


@click.command()
@click.argument("run", type=RunParameter())
@click.argument("name", metavar="CATEGORY.ACTION")
@click.option("--data", metavar="JSON|-", help="The data; - reads them from standard input.")
@click.option("--text", metavar="TEXT|-", help="The data, as a plain text.")
@click.option("--source", metavar="JSON|-", help="The source of the event.")
@click.option("--key", help="An idempotency key: a repeat with the same key stores nothing.")
@click.option("--expected-sequence", type=int, help="Append only if the event gets this sequence.")
@click.option("--lease", type=int, metavar="SECONDS", help="Lose the run if it is silent so long.")
@click.option("--json", "as_json", is_flag=True, help="Print the sequence too, as JSON.")
@connects
def append(
    connection: Connection,
    run: str,
    name: str,
    data: str | None,
    text: str | None,
    source: str | None,
    key: str | None,
    expected_sequence: int | None,
    lease: int | None,
    as_json: bool,
) -> int:
    """Append an event to RUN, and print its id.

    While the gateway is away, this is repeated for 30 seconds, and stored once.
    """
    category, dot, action = name.partition(".")
    if not dot:
        raise click.UsageError(f"{name!r} must be CATEGORY.ACTION, such as llm.stream")
    if data is not None and text is not None:
        raise click.UsageError("--data cannot stand beside --text")
    if [data, text, source].count("-") > 1:
        raise click.UsageError("standard input can be read only once")
    data_json = b"null" if data is None else json_argument("--data", data, _HINT)
    if text is not None:
        data_json = text_argument(text)
    source_json = b"null" if source is None else json_argument("--source", source)
    new_event = new_event_of(category, action, data_json, source_json)
    with connection.client() as client:
        appended = client.append_new(
            run,
            [new_event],
            idempotency_key=key,
            expected_sequence=expected_sequence,
            lease_seconds=lease,
        )
    if as_json:
        document = {
            "id": appended.last_id,
            "run_id": run,
            "sequence": appended.last_sequence,
            "repeated": appended.repeated,
        }
        write(orjson.dumps(document) + b"\n")
    else:
        write(f"{appended.last_id}\n")
    return 0


@click.command()
@click.argument("run", type=RunParameter())
@click.argument("action")
@click.option("--data", metavar="JSON|-", help="The data; - reads them from standard input.")
@click.option("--key", help="An idempotency key: a repeat with the same key stores nothing.")
@connects
def request(
    connection: Connection, run: str, action: str, data: str | None, key: str | None
) -> int:
    """Request ACTION, such as cancel, of the producer of RUN, and print the event's id.

    The run must have a log, and must not have ended. What is done is up to the producer.
    """
    # A fragment keeps its bytes: a parser would round large numbers.
    value = None if data is None else orjson.Fragment(json_argument("--data", data))
    with connection.client() as client:
        write(f"{client.request(run, action, value, idempotency_key=key)}\n")
    return 0
