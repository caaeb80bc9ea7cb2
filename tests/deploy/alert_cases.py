"""When each alert must fire, and when it must not, as series in the notation of promtool.

A point comes every 15 seconds: `0x20` is 21 points of 0, `0+3x20` grows by 3 with each.
"""

from typing import NamedTuple

GATEWAY = 'job="tailrace",instance="gateway-1:9100"'
OTHER = 'job="tailrace",instance="gateway-2:9100"'
ARCHIVER = 'job="tailrace-archive",instance="archive:9107"'

Series = dict[str, str]


class Case(NamedTuple):
    """An alert that is silent at one time, and fires at a later one."""

    alert: str
    series: Series
    silent: str
    fires: str


CASES = [
    Case(
        "TailraceDown",
        {f"up{{{GATEWAY}}}": "1x20 0x40", f"up{{{OTHER}}}": "0x60"},
        "5m45s",
        "6m30s",
    ),
    # Nothing is scraped at all.
    Case("TailraceDown", {'up{job="other"}': "1x20"}, "45s", "1m15s"),
    Case("TailraceRedisDown", {f"tailrace_redis_up{{{GATEWAY}}}": "1x20 0x40"}, "6m", "6m30s"),
    Case(
        "TailraceAppendsFailing",
        {
            f'tailrace_appends_total{{{GATEWAY},way="plain",outcome="stored"}}': "0+100x100",
            f'tailrace_appends_total{{{GATEWAY},way="plain",outcome="unavailable"}}': "0x40 0+5x60",
            f"tailrace_redis_up{{{GATEWAY}}}": "1x100",
        },
        "11m",
        "14m",
    ),
    # Redis comes and goes, so nobody can say that it is down.
    Case(
        "TailraceAppendsFailing",
        {
            f'tailrace_appends_total{{{GATEWAY},way="plain",outcome="unavailable"}}': "0x40 0+5x60",
            f"tailrace_redis_up{{{GATEWAY}}}": f"1x40 {'0 0 1 ' * 20}",
        },
        "11m",
        "14m",
    ),
    Case(
        "TailraceDeliverySlow",
        {
            f'tailrace_delivery_lag_seconds_bucket{{{GATEWAY},le="1.0"}}': "0+100x40 4000+95x60",
            f'tailrace_delivery_lag_seconds_bucket{{{GATEWAY},le="2.5"}}': "0+100x100",
            f'tailrace_delivery_lag_seconds_bucket{{{GATEWAY},le="+Inf"}}': "0+100x100",
        },
        "14m",
        "17m",
    ),
    Case(
        "TailraceStreamsRefused",
        {f'tailrace_streams_refused_total{{{GATEWAY},reason="full"}}': "0x40 0+1x60"},
        "11m",
        "14m",
    ),
    Case(
        "TailraceWorkerHung",
        {f"tailrace_hub_silence_seconds{{{GATEWAY}}}": "0x20 15+15x20"},
        "6m",
        "6m45s",
    ),
    Case(
        "TailraceWorkersCrashing",
        {f"tailrace_workers_died_total{{{GATEWAY}}}": "0x40 0+1x20"},
        "11m",
        "13m30s",
    ),
    Case(
        "TailraceArchiveLoses",
        {f"tailrace_archive_unarchived_logs_at_limit{{{ARCHIVER}}}": "0x20 2x20"},
        "6m",
        "6m30s",
    ),
    Case(
        "TailraceGatewayDown",
        {f"up{{{GATEWAY}}}": "1x20 0x40", f"up{{{OTHER}}}": "1x60"},
        "10m",
        "10m30s",
    ),
    Case(
        "TailraceWorkerDied",
        {f"tailrace_workers_died_total{{{GATEWAY}}}": "3x40 4x40"},
        "11m",
        "11m45s",
    ),
    Case(
        "TailraceStreamsNearLimit",
        {
            f'tailrace_streams_open{{{GATEWAY},kind="stream"}}': "100x20 750x60",
            f'tailrace_streams_open{{{GATEWAY},kind="ingest"}}': "100x80",
            f"tailrace_streams_limit{{{GATEWAY}}}": "1000x80",
        },
        "15m",
        "15m30s",
    ),
    Case(
        "TailraceOpenFilesNearLimit",
        {
            f"tailrace_open_files{{{GATEWAY}}}": "100x20 1700x60",
            f"tailrace_open_files_limit{{{GATEWAY}}}": "1000x80",
            f"tailrace_workers{{{GATEWAY}}}": "2x80",
        },
        "15m",
        "15m30s",
    ),
    Case(
        "TailraceGaps",
        {f'tailrace_notices_total{{{GATEWAY},notice="gap"}}': "5x40 5+2x40"},
        "11m",
        "13m",
    ),
    Case(
        "TailraceRunsLost",
        {f"tailrace_runs_lost_total{{{GATEWAY}}}": "5x40 5+2x40"},
        "11m",
        "13m",
    ),
    Case(
        "TailraceReadersFailing",
        {
            f"tailrace_reader_failures_total{{{GATEWAY}}}": "0x40 0+1x60",
            f"tailrace_redis_up{{{GATEWAY}}}": "1x100",
        },
        "15m",
        "18m",
    ),
    Case(
        "TailraceShardAway",
        {f"tailrace_redis_nodes_away{{{GATEWAY}}}": "0x20 1x20"},
        "5m30s",
        "6m",
    ),
    Case(
        "TailraceRedisUnsafe",
        {f"tailrace_redis_warnings{{{GATEWAY}}}": "0x20 1x80"},
        "20m",
        "20m30s",
    ),
    Case(
        "TailraceTokensRefused",
        {f'tailrace_auth_refusals_total{{{GATEWAY},reason="invalid"}}': "0x40 0+60x40"},
        "11m",
        "13m",
    ),
    Case(
        "TailraceSlowViewers",
        {
            f'tailrace_streams_closed_total{{{GATEWAY},kind="stream",reason="stalled"}}': (
                "0x40 0+10x60"
            )
        },
        "14m",
        "18m",
    ),
    Case(
        "TailraceSlowViewers",
        {
            f"tailrace_backlog_bytes{{{GATEWAY}}}": "0x40 80000000x40",
            f"tailrace_workers{{{GATEWAY}}}": "2x80",
        },
        "15m",
        "15m30s",
    ),
    Case(
        "TailraceErrors",
        {f'tailrace_http_responses_total{{{GATEWAY},status="500"}}': "5x40 5+2x40"},
        "11m",
        "13m",
    ),
    Case(
        "TailraceArchiveFailing",
        {
            f'tailrace_archive_failures_total{{{ARCHIVER},kind="storage"}}': "0x40 0+2x100",
            f"up{{{ARCHIVER}}}": "1x140",
        },
        "24m",
        "27m",
    ),
    Case("TailraceArchiveFailing", {f"up{{{ARCHIVER}}}": "1x20 0x100"}, "20m", "20m30s"),
    Case(
        "TailraceArchiveFailing",
        {f"tailrace_archive_passes_total{{{ARCHIVER}}}": "0+1x100 100x200"},
        "60m",
        "71m",
    ),
]

# A restart of gateway-1, as Prometheus sees it: three scrapes without an answer, and all counters
# at nothing again. The other one serves meanwhile, and refuses what comes in its own drain later.
_RESTARTED = {
    f"up{{{GATEWAY}}}": "1x20 0x2 1x60",
    f"tailrace_redis_up{{{GATEWAY}}}": "1x20 _x3 0 1x59",
    f"tailrace_workers{{{GATEWAY}}}": "2x19 1 _x3 2x60",
    f"tailrace_workers_died_total{{{GATEWAY}}}": "3x20 _x3 0x60",
    f"tailrace_hub_silence_seconds{{{GATEWAY}}}": "0.2x20 _x3 2x1 0.2x60",
    f'tailrace_appends_total{{{GATEWAY},way="plain",outcome="stored"}}': "9000+100x20 _x3 0+90x60",
    f'tailrace_appends_total{{{GATEWAY},way="plain",outcome="unavailable"}}': "90x20 _x3 0x60",
    f'tailrace_appends_total{{{GATEWAY},way="plain",outcome="failed"}}': "4x20 _x3 0x60",
    f'tailrace_streams_refused_total{{{GATEWAY},reason="draining"}}': "4+3x20 _x3 0x60",
    f'tailrace_streams_refused_total{{{GATEWAY},reason="full"}}': "40x20 _x3 0x60",
    f'tailrace_notices_total{{{GATEWAY},notice="gap"}}': "40x20 _x3 0+0.1x60",
    f"tailrace_runs_lost_total{{{GATEWAY}}}": "40x20 _x3 0x60",
    f"tailrace_reader_failures_total{{{GATEWAY}}}": "40x20 _x3 0 1x60",
    f'tailrace_auth_refusals_total{{{GATEWAY},reason="invalid"}}': "4000+3x20 _x3 0+3x60",
    f'tailrace_auth_refusals_total{{{GATEWAY},reason="missing"}}': "4000+300x20 _x3 0+300x60",
    f'tailrace_http_responses_total{{{GATEWAY},status="500"}}': "40x20 _x3 0x60",
    f'tailrace_streams_closed_total{{{GATEWAY},kind="stream",reason="draining"}}': (
        "0x18 0+900x2 _x3 0x60"
    ),
    f'tailrace_streams_closed_total{{{GATEWAY},kind="stream",reason="stalled"}}': (
        "900+1x20 _x3 0+1x60"
    ),
    f'tailrace_streams_open{{{GATEWAY},kind="stream"}}': "500x18 100 0 _x3 400x60",
    f"tailrace_streams_limit{{{GATEWAY}}}": "1000x20 _x3 1000x60",
    f"tailrace_open_files{{{GATEWAY}}}": "700x20 _x3 700x60",
    f"tailrace_open_files_limit{{{GATEWAY}}}": "1000x20 _x3 1000x60",
    f"tailrace_backlog_bytes{{{GATEWAY}}}": "70000x20 _x3 700x60",
    f'tailrace_delivery_lag_seconds_bucket{{{GATEWAY},le="1.0"}}': "9000+100x20 _x3 0+100x60",
    f'tailrace_delivery_lag_seconds_bucket{{{GATEWAY},le="+Inf"}}': "9900+100x20 _x3 0+100x60",
    f"up{{{OTHER}}}": "1x84",
    f"tailrace_redis_up{{{OTHER}}}": "1x84",
    f"tailrace_workers{{{OTHER}}}": "2x84",
    f"tailrace_workers_died_total{{{OTHER}}}": "0x84",
}

# Redis is down for five minutes: that is one alert of a gateway, and not what follows from it.
_REDIS_DOWN = {
    f"up{{{GATEWAY}}}": "1x84",
    f"tailrace_redis_up{{{GATEWAY}}}": "1x20 0x20 1x42",
    f'tailrace_appends_total{{{GATEWAY},way="plain",outcome="stored"}}': (
        "0+99x20 1980x20 1980+99x42"
    ),
    f'tailrace_appends_total{{{GATEWAY},way="plain",outcome="unavailable"}}': (
        "0x20 0+100x20 2000x42"
    ),
    f"tailrace_reader_failures_total{{{GATEWAY}}}": "0x20 0+10x20 200x42",
}

# Series, and the alerts that fire at any time.
QUIET = {
    "a rolling restart": (_RESTARTED, set()),
    "Redis down": (_REDIS_DOWN, {"TailraceRedisDown"}),
}
