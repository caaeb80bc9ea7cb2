"""What each thing costs, as measured: the figures of docs/capacity.md, and those of a file."""

from dataclasses import dataclass, fields, replace


class Unusable(Exception):
    """A load that cannot be, or costs that are none."""


@dataclass(frozen=True)
class Costs:
    """What each thing costs, as measured. The defaults are those of one Redis in docs/capacity.md.

    `…_us` are microseconds of one core, for each event unless they say otherwise. What costs more
    with the size of an event has a part for each 1,000 bytes of its data too (`…_us_per_kb`).

    Attributes:
        append_us: the gateway appends an event by a POST.
        read_us: a worker reads an event of a run that it follows, for all its followers.
        send_us: a worker sends an event to one follower.
        open_us: a stream is opened.
        idle_stream_us: an open stream, in a second (heartbeats).
        idle_run_us: a run that a worker follows, in a second (checks).
        worker_bytes: memory of a worker without streams.
        stream_bytes: memory of an open stream.
        run_bytes: memory of a run that a worker follows.
        merged_run_bytes: memory of each further run of a stream of several.
        merged_factor: how much more it costs to send an event to a stream of several runs.
        redis_append_us: Redis appends an event.
        redis_key_us: Redis looks for the idempotency key of an event, and keeps it.
        redis_read_us: Redis gives an event to one worker.
        redis_idle_run_us: a run that a worker follows, in a second.
        redis_run_bytes, redis_event_bytes, redis_data_factor: memory in Redis of a run, of each
            event in its log, and of each byte of its data (docs/redis.md).
        redis_key_bytes: memory in Redis of the idempotency key of an event.
        request_bytes, answer_bytes: an append over HTTP, beside the data.
        frame_bytes: an event on its way to a follower, beside the data.
        redis_append_bytes, redis_read_bytes: an event on its way to Redis, or from Redis to a
            worker, beside the data.
    """

    append_us: float = 85.0
    append_us_per_kb: float = 8.2
    read_us: float = 261.0
    read_us_per_kb: float = 6.7
    send_us: float = 9.1
    send_us_per_kb: float = 0.01
    open_us: float = 573.0
    idle_stream_us: float = 2.1
    idle_run_us: float = 4.9
    worker_bytes: float = 89e6
    stream_bytes: float = 3200.0
    run_bytes: float = 5500.0
    merged_run_bytes: float = 700.0
    merged_factor: float = 1.6
    redis_append_us: float = 35.0
    redis_append_us_per_kb: float = 4.3
    redis_key_us: float = 26.0
    redis_read_us: float = 159.0
    redis_read_us_per_kb: float = 3.9
    redis_idle_run_us: float = 0.78
    redis_run_bytes: float = 5000.0
    redis_event_bytes: float = 70.0
    redis_data_factor: float = 1.1
    redis_key_bytes: float = 290.0
    request_bytes: float = 300.0
    answer_bytes: float = 400.0
    frame_bytes: float = 217.0
    redis_append_bytes: float = 301.0
    redis_read_bytes: float = 3800.0

    def with_measured(self, measured: object) -> "Costs":
        """Return the costs in a JSON object, and these for each that it lacks.

        Raises Unusable.
        """
        if not isinstance(measured, dict):
            raise Unusable("the costs must be a JSON object")
        names = {each.name for each in fields(self)}
        for name, value in measured.items():
            if name not in names:
                raise Unusable(f"{name!r} is no cost; the costs are {', '.join(sorted(names))}")
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0 <= value < 1e12:
                raise Unusable(f"{name}: must be a number from 0 to 10^12, not {value!r}")
        return replace(self, **measured)


ONE_REDIS = Costs()

# A cluster of three masters. What is not named costs the same.
CLUSTER = replace(
    ONE_REDIS,
    append_us=91.0,
    append_us_per_kb=4.5,
    read_us=300.0,
    read_us_per_kb=7.5,
    send_us=8.7,
    send_us_per_kb=0.2,
    open_us=553.0,
    idle_stream_us=2.8,
    idle_run_us=7.3,
    worker_bytes=92e6,
    stream_bytes=3300.0,
    run_bytes=4000.0,
    redis_append_us=40.0,
    redis_append_us_per_kb=3.6,
    redis_key_us=27.0,
    redis_read_us=75.0,
    redis_read_us_per_kb=0.0,
    redis_idle_run_us=1.0,
    redis_append_bytes=302.0,
    redis_read_bytes=916.0,
)
