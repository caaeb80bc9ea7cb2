"""Compares each log with the acknowledged events, and each follower's record with the log.

A failover of a cluster may lose the end of a log. Who was sent what it lost must get a reset, and
then the log as it is.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise, takewhile

from tests.chaos.failovers import Failovers
from tests.chaos.followers import Follower
from tests.chaos.producers import Entry, Producer
from tests.chaos.servers import Servers
from tests.chaos.streamers import Streamer

Log = dict[str, list[Entry]]


@dataclass
class Report:
    """The figures of a storm, and a line for everything that is wrong.

    `lost_by_failovers` counts acknowledged events, and `told` the resets that followers got for
    what failovers lost.
    """

    acknowledged: int = 0
    replayed: int = 0
    repeated: int = 0
    delivered: int = 0
    streams_opened: int = 0
    lost_by_failovers: int = 0
    told: int = 0
    failovers: int = 0
    unplanned_failovers: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    gaps: int = 0
    resets: int = 0
    stuck: int = 0
    changes: int = 0
    notices: int = 0
    delivered_of_changing: int = 0
    missed: int = 0
    faults: int = 0
    cuts: int = 0
    acknowledged_by_kind: Counter[str] = field(default_factory=Counter)
    faults_by_kind: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def note(self, subject: str, **counts: int) -> None:
        """Add counts to the figures, and a line for each that is not 0."""
        for name, count in counts.items():
            setattr(self, name, getattr(self, name) + count)
            if count:
                self.wrong.append(f"{subject}: {count} {name.replace('_', ' ')}")


def read_logs(server: Servers, runs: list[str]) -> Log:
    with server.client() as client:
        return {run: list(_entries(client.xrange(f"run:{run}:events"))) for run in runs}


def _entries(found: list[tuple[bytes, dict[bytes, bytes]]]) -> Iterator[Entry]:
    for entry_id, fields in found:
        data = json.loads(fields[b"data"])
        sequence = int(fields[b"sequence"])
        yield Entry(entry_id.decode(), sequence, data["producer"], data["number"])


def compare(
    logs: Log,
    producers: list[Producer],
    followers: list[Follower],
    failovers: Failovers | None = None,
) -> Report:
    """Compare what is in the logs now. Without `failovers` nothing may be lost."""
    failovers = failovers or Failovers()
    planned, unplanned = len(failovers.found), len(failovers.unplanned)
    report = Report(failovers=planned, unplanned_failovers=unplanned)
    for run, log in logs.items():
        _compare_log(report, run, log, producers, failovers)
    for producer in producers:
        _add_producer(report, producer)
        if isinstance(producer, Streamer):
            _compare_streamer(report, producer, failovers)
    for follower in followers:
        _compare_follower(report, follower, logs[follower.run], failovers)
    return report


def _compare_log(
    report: Report, run: str, log: list[Entry], producers: list[Producer], failovers: Failovers
) -> None:
    acknowledged = {entry for each in producers for entry in each.acknowledged.get(run, ())}
    numbers = {(entry.producer, entry.number) for entry in acknowledged}
    events = [(entry.producer, entry.number) for entry in log]
    made = {each.number: each.made for each in producers}
    lost = acknowledged - _as_acknowledged(log)
    explained = set[Entry]()
    if failovers.acknowledged_too:
        explained = {
            entry
            for entry in lost
            if failovers.explain(run, entry, made[entry.producer][entry.number], log)
        }
    report.acknowledged += len(numbers)
    report.lost_by_failovers += len(explained)
    report.note(
        f"log of {run}",
        lost=len(lost - explained),
        doubled=len(events) - len(set(events)),
        out_of_order=_disorder(log),
    )
    if strays := set(events) - numbers:
        report.wrong.append(f"log of {run}: {len(strays)} events that were not acknowledged")


def _as_acknowledged(log: list[Entry]) -> set[Entry]:
    """Return the entries in every form in which they may have been acknowledged."""
    without_ids = {entry._replace(id=None) for entry in log}
    return {*log, *without_ids, *(entry._replace(sequence=None) for entry in without_ids)}


def _add_producer(report: Report, producer: Producer) -> None:
    name = f"producer {producer.number} ({producer.kind})"
    report.acknowledged_by_kind[producer.kind] += sum(map(len, producer.acknowledged.values()))
    report.replayed += producer.replayed
    report.repeated += producer.repeats
    report.wrong += [f"{name}: {line}" for line in producer.wrong]
    if odd := producer.answers.keys() - producer.usual_answers:
        report.wrong.append(f"{name}: unexpected answers {odd}")


def _compare_streamer(report: Report, streamer: Streamer, failovers: Failovers) -> None:
    [run] = streamer.acknowledged
    for count, is_acknowledged in streamer.missing:
        if not failovers.of(run) or (is_acknowledged and not failovers.acknowledged_too):
            report.note(f"producer {streamer.number} of {run}", lost=count)


def _disorder(log: list[Entry]) -> int:
    """Count sequences that are not 1, 2, 3 …, and events that follow later ones of a producer."""
    latest: Counter[int] = Counter()
    disorder = sum(entry.sequence != expected for expected, entry in enumerate(log, 1))
    for entry in log:
        disorder += entry.number < latest[entry.producer]
        latest[entry.producer] = max(latest[entry.producer], entry.number)
    return disorder


def _compare_follower(
    report: Report, follower: Follower, log: list[Entry], failovers: Failovers
) -> None:
    last = follower.records[-1]
    report.streams_opened += follower.answers[200]
    report.delivered += sum(map(len, follower.records))
    report.note(follower.name, gaps=follower.controls["gateway.gap"])
    behind = bool(log) and (not last or last[-1] != log[-1])
    if behind:
        report.note(f"{follower.name} at {follower.cursor} of {log[-1].id}", stuck=1)
    for record in (*_without_lost(report, follower, log, failovers), last):
        expected = log if record is last and not behind else log[: _end(record, log)]
        if record == expected:
            continue
        report.note(
            follower.name,
            lost=len(set(expected) - set(record)),
            doubled=len(record) - len(set(record)),
            out_of_order=sum(b.sequence < a.sequence for a, b in pairwise(record)),
        )
        if strays := set(record) - set(log):
            report.wrong.append(f"{follower.name}: {len(strays)} events that are not in the log")
    report.wrong += follower.wrong
    if odd := follower.answers.keys() - {200, 503}:
        report.wrong.append(f"{follower.name}: unexpected answers {odd}")


def _without_lost(
    report: Report, follower: Follower, log: list[Entry], failovers: Failovers
) -> Iterator[list[Entry]]:
    """Yield the records that are over, each without the events at its end that failovers lost.

    A reset needs such an event before it. A client that reconnects before anything comes after
    it gets it again.
    """
    has = set(log)
    for place, record in enumerate(follower.records[:-1]):
        kept = list(takewhile(has.__contains__, record))
        lost = record[len(kept) :]
        if place in follower.told:
            report.told += 1
            is_again = follower.reconnects and not record and place - 1 in follower.told
            report.note(follower.name, resets=int(not lost and not is_again))
        has_all = [entry.sequence for entry in record] == list(range(1, len(record) + 1))
        explained = all(
            each not in has and failovers.explain(follower.run, each, 0, log) for each in lost
        )
        yield kept if has_all and explained else record


def _end(record: list[Entry], log: list[Entry]) -> int:
    """Return how many entries of the log a record that was broken off has reached."""
    return log.index(record[-1]) + 1 if record and record[-1] in log else len(record)
