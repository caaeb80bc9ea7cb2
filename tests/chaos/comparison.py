"""Compares each log with the acknowledged events, and each follower's record with the log."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from tests.chaos.followers import Follower
from tests.chaos.producers import Entry, Producer
from tests.chaos.servers import DurableRedis

Log = dict[str, list[Entry]]


@dataclass
class Report:
    """The figures of a storm, and a line for everything that is wrong."""

    acknowledged: int = 0
    replayed: int = 0
    repeated: int = 0
    delivered: int = 0
    streams_opened: int = 0
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


def read_logs(server: DurableRedis, runs: list[str]) -> Log:
    with server.client() as client:
        return {run: list(_entries(client.xrange(f"run:{run}:events"))) for run in runs}


def _entries(found: list[tuple[bytes, dict[bytes, bytes]]]) -> Iterator[Entry]:
    for entry_id, fields in found:
        data = json.loads(fields[b"data"])
        sequence = int(fields[b"sequence"])
        yield Entry(entry_id.decode(), sequence, data["producer"], data["number"])


def compare(logs: Log, producers: list[Producer], followers: list[Follower]) -> Report:
    report = Report()
    for run, log in logs.items():
        acknowledged = {entry for each in producers for entry in each.acknowledged.get(run, ())}
        events = [(entry.producer, entry.number) for entry in log]
        report.acknowledged += len(acknowledged)
        report.note(
            f"log of {run}",
            lost=len(acknowledged - _as_acknowledged(log)),
            doubled=len(events) - len(set(events)),
            out_of_order=_disorder(log),
        )
        if strays := set(events) - {(entry.producer, entry.number) for entry in acknowledged}:
            report.wrong.append(f"log of {run}: {len(strays)} events that were not acknowledged")
    for producer in producers:
        _add_producer(report, producer)
    for follower in followers:
        _compare_follower(report, follower, logs[follower.run])
    return report


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


def _disorder(log: list[Entry]) -> int:
    """Count sequences that are not 1, 2, 3 …, and events that follow later ones of a producer."""
    latest: Counter[int] = Counter()
    disorder = sum(entry.sequence != expected for expected, entry in enumerate(log, 1))
    for entry in log:
        disorder += entry.number < latest[entry.producer]
        latest[entry.producer] = max(latest[entry.producer], entry.number)
    return disorder


def _compare_follower(report: Report, follower: Follower, log: list[Entry]) -> None:
    last = follower.records[-1]
    report.streams_opened += follower.answers[200]
    report.delivered += sum(map(len, follower.records))
    report.note(
        follower.name,
        gaps=follower.controls["gateway.gap"],
        resets=follower.controls["gateway.reset"],
    )
    behind = bool(log) and (not last or last[-1] != log[-1])
    if behind:
        report.note(f"{follower.name} at {follower.cursor} of {log[-1].id}", stuck=1)
    for record in follower.records:
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


def _end(record: list[Entry], log: list[Entry]) -> int:
    """Return how many entries of the log a record that was broken off has reached."""
    return log.index(record[-1]) + 1 if record and record[-1] in log else len(record)
