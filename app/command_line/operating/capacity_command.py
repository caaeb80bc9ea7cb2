"""The command `capacity`: what a load needs, by the model in docs/capacity.md."""

import io
import json
import math
from dataclasses import asdict
from typing import Any

import click

from ...costs import CLUSTER, ONE_REDIS, Unusable
from ...sizing import MAX_LOAD, Load, Needs, needs
from ..output.terminal import write

# No gateway will see more of anything.
MAX = 10**9


class NumberParameter(click.ParamType):  # type: ignore[type-arg]
    """A number above zero, or from `least` on; with `whole`, a whole one, such as 1e5."""

    name = "number"

    def __init__(self, *, least: float | None = None, whole: bool = False):
        self._least = least
        self._whole = whole

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number. Fails for anything else."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        is_enough = number > 0 if self._least is None else number >= self._least
        is_of_kind = number.is_integer() or not self._whole
        if not (is_enough and number <= MAX and is_of_kind):
            kind = "a whole number" if self._whole else "a number"
            bounds = "above 0" if self._least is None else f"from {self._least:g}"
            self.fail(f"must be {kind} {bounds} up to {MAX:,}, not {value!r}", param, ctx)
        return int(number) if self._whole else number


_COUNT = NumberParameter(least=0, whole=True)
_SOME = NumberParameter(least=1, whole=True)


@click.command()
@click.option(
    "--runs", type=_COUNT, required=True, help="Runs that are in Redis, and get the events."
)
@click.option("--viewers", type=_COUNT, required=True, help="Open streams.")
@click.option(
    "--events", type=NumberParameter(least=0), required=True, help="A second, of all runs together."
)
@click.option(
    "--event-bytes", type=_SOME, default=500, show_default=True, help="The data of an event."
)
@click.option(
    "--viewers-per-run",
    type=NumberParameter(),
    help="Of each run that is followed; by default all runs are followed by as many.",
)
@click.option(
    "--merged", type=_SOME, default=1, show_default=True, help="The runs that each stream follows."
)
@click.option(
    "--kept", type=_COUNT, default=1000, show_default=True, help="Events that a run's log holds."
)
@click.option(
    "--costs",
    type=click.File(),
    help="A file of costs that `python -m tests.bench.costs` has measured; - for the input.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def capacity(costs: io.TextIOBase | None, as_json: bool, **load: Any) -> int:
    """Say how many workers, cores, GB and Redis shards a load needs.

    It is an estimate: see docs/capacity.md.
    """
    try:
        measured = {} if costs is None else _read(costs)
        found = needs(
            Load(**load), ONE_REDIS.with_measured(measured), CLUSTER.with_measured(measured)
        )
    except Unusable as error:
        raise click.UsageError(str(error)) from None
    write(f"{json.dumps(asdict(found))}\n" if as_json else _table(found))
    return 0


def _read(costs: io.TextIOBase) -> Any:
    """Return the JSON of a file. Raises Unusable."""
    try:
        return json.loads(costs.read())
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise Unusable("--costs: the file is no JSON") from None


def _table(found: Needs) -> str:
    per_core = f"at most {MAX_LOAD:.0%} of a core each"
    rows = {
        "delivered": f"{_rate(found.delivered)} events/s",
        "gateway workers": f"{found.workers:,}, {per_core}",
        "gateway CPU": f"{found.cores:,.2f} cores in use",
        "gateway memory": _bytes(found.memory_bytes),
        "followed runs": f"{found.followed_per_worker:,.0f} per worker",
        "Redis shards": f"{found.shards:,}, {per_core}",
        "Redis CPU": f"{found.redis_cores:,.2f} cores in use",
        "Redis memory": f"{_bytes(found.redis_memory_bytes)}, without replicas",
        "Redis connections": f"{found.redis_connections:,} per shard at most",
        "network from clients": f"{_bits(found.in_bytes)}",
        "network to clients": f"{_bits(found.out_bytes)}",
        "network of Redis": f"{_bits(found.redis_bytes)}",
        "reconnect of all": f"{found.reopening_seconds:,.1f} s of each worker's CPU",
    }
    lines = [f"{name:<21} {value}\n" for name, value in rows.items()]
    return "".join([*lines, *(f"note: {each}\n" for each in found.notes)])


def _rate(events: float) -> str:
    return f"{events:,.0f}" if events >= 10 else f"{events:.2g}"


def _bytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"


def _bits(size: float) -> str:
    return f"{8 * size / 1e6:,.1f} Mbit/s"
