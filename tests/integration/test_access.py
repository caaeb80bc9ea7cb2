"""Tokens at real gateways: streams end when a token expires or is revoked, and nothing leaks."""

import contextlib
import json
import shlex
import signal
import socket
import subprocess
import sys
import time

import pytest
import requests

from app.auth.tokens import make_token
from tests.clients import Stream
from tests.raw_http import read_until
from tests.servers import ROOT, GatewayServer, free_port, wait_until

SECRET = "a secret of more than thirty-two bytes"
EVENT = {"event_category": "llm", "event_action": "stream"}


def token(ttl: float = 600, **claims: str) -> str:
    grants = {"read": ["*"], "append": ["*"]}
    return make_token(SECRET, "tailrace", grants, ttl, **{"aud": "tailrace", "sub": "u1"} | claims)


def admin() -> dict[str, str]:
    return bearer(make_token(SECRET, "tailrace", {"admin": ["*"]}, 600, aud="tailrace"))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def stream_url(gateway: GatewayServer, run_id: str) -> str:
    return f"{gateway.url}/runs/{run_id}/events/stream"


def append(gateway: GatewayServer, run_id: str, headers: dict[str, str]) -> int:
    url = f"{gateway.url}/runs/{run_id}/events"
    return requests.post(url, json=EVENT, headers=headers, timeout=20).status_code


@pytest.fixture
def guarded(start_gateway) -> GatewayServer:
    return start_gateway(AUTH_SECRET=SECRET)


def test_a_stream_is_warned_and_ends_when_its_token_expires(guarded, run_id):
    """Parked, and with a filter, and as lines; the client that has a new token misses nothing."""
    short = bearer(token(ttl=3))
    lines = short | {"Accept": "application/x-ndjson"}
    filtered = f"{stream_url(guarded, run_id)}?category=no-such"
    with contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(Stream(stream_url(guarded, run_id), short)),
            stack.enter_context(Stream(filtered, short)),
        ]
        plain = requests.get(stream_url(guarded, run_id), headers=lines, stream=True, timeout=20)
        stack.enter_context(contextlib.closing(plain))
        for stream in streams:
            stream.wait_for_control("caught_up")
            warning = stream.wait_for_control("expiring")
            assert 1 <= warning.json["data"]["expires_in"] <= 3
        assert append(guarded, run_id, bearer(token())) == 201
        for stream in streams:
            wait_until(lambda stream=stream: stream.ended, "it ends")
        assert len(streams[0].events) == 1
        names = [json.loads(line)["event"]["action"] for line in plain.iter_lines() if line]
        names = [name for name in names if name != "heartbeat"]
        assert names == ["caught_up", "expiring", "stream"]
    again = {"Last-Event-ID": streams[0].events[-1].last_event_id}
    assert requests.get(stream_url(guarded, run_id), headers=short, timeout=20).status_code == 401
    append(guarded, run_id, bearer(token()))
    with Stream(stream_url(guarded, run_id), bearer(token()) | again) as resumed:
        resumed.wait_for_events(1)
        assert resumed.events[0].json["sequence"] == 2


def test_lines_end_when_the_token_expires_and_what_arrived_is_stored(guarded, run_id, store):
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=20) as connection:
        head = (
            f"POST /runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
            f"{token(ttl=1)}\r\nContent-Type: application/x-ndjson\r\nContent-Length: 9999\r\n\r\n"
        )
        connection.sendall(head.encode() + json.dumps(EVENT).encode() + b"\n")
        answer = read_until(connection, b"}")
    assert b" 401 " in answer.partition(b"\r\n")[0]
    assert b'"stored":1' in answer
    assert len(store.get_events(run_id)) == 1


@pytest.mark.parametrize("name", ["jti", "sub"])
def test_a_revocation_ends_streams_of_all_workers_and_gateways_and_stays(
    start_gateway, run_id, name
):
    subject, token_id = f"{run_id}-u1", f"{run_id}-t1"  # others share the Redis
    revocation = {"jti": token_id} if name == "jti" else {"sub": subject}
    gateways = [start_gateway(AUTH_SECRET=SECRET, WEB_CONCURRENCY=2) for _ in range(2)]
    revoked = bearer(token(jti=token_id, sub=subject))
    others = bearer(token(jti="t2", sub="u2"))
    time.sleep(1.1)  # a token's `iat` has whole seconds
    with contextlib.ExitStack() as stack:
        doomed, safe = [], []
        for gateway in gateways:
            for _ in range(8):
                for headers, streams in ((revoked, doomed), (others, safe)):
                    url = stream_url(gateway, run_id)
                    streams.append(stack.enter_context(Stream(url, headers)))
        for stream in doomed + safe:
            stream.wait_for_control("caught_up")
        url = f"{gateways[0].url}/revocations"
        assert requests.post(url, json=revocation, headers=others, timeout=20).status_code == 403
        assert requests.post(url, json=revocation, headers=admin(), timeout=20).status_code == 204
        for stream in doomed:
            wait_until(lambda stream=stream: stream.ended, "it ends")
        for gateway in gateways:
            for _ in range(8):
                wait_until(
                    lambda gateway=gateway: append(gateway, run_id, revoked) == 401, "it is refused"
                )
        assert append(gateways[1], run_id, others) == 201
        for stream in safe:
            stream.wait_for_events(1)
            assert not stream.ended
    later = start_gateway(AUTH_SECRET=SECRET)
    assert append(later, run_id, revoked) == 401
    assert append(later, run_id, others) == 201
    if name == "sub":
        time.sleep(1.1)
        assert append(later, run_id, bearer(token(jti="t3", sub=subject))) == 201


@pytest.mark.parametrize(
    ("settings", "starts"),
    [
        ({}, False),
        ({"ALLOW_ANONYMOUS": "true"}, True),
        ({"AUTH_SECRET": SECRET}, True),
        ({"AUTH_SECRET": SECRET, "CORS_ORIGINS": "*"}, False),
        ({"HOST": "127.0.0.2"}, True),
    ],
)
def test_a_gateway_that_others_can_reach_starts_only_with_authentication(
    redis_server, settings, starts
):
    environ = {"REDIS_URL": redis_server.url, "PORT": str(free_port()), "HOST": "0.0.0.0"}
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environ | settings, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            if starts:
                address = (environ | settings)["HOST"].replace("0.0.0.0", "127.0.0.1")
                url = f"http://{address}:{environ['PORT']}/healthz"
                wait_until(lambda: _answers(url), "it answers")
            else:
                assert process.wait(30) != 0
                line = process.stderr.read().strip().splitlines()[-1]
                assert "ALLOW_ANONYMOUS" in line or "CORS_ORIGINS" in line
        finally:
            process.kill()


@pytest.mark.parametrize("way", ["--bind", "fd://", "systemd"])
def test_the_address_counts_that_is_listened_on_whoever_opened_it(redis_server, way):
    """HOST may say something else."""
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
    environ = {"REDIS_URL": redis_server.url, "HOST": "127.0.0.1"}
    with socket.create_server(("0.0.0.0", 0)) as opened:
        number = opened.fileno()
        if way == "--bind":
            command = [*gunicorn, "--bind", f"0.0.0.0:{free_port()}", "wsgi:app"]
        elif way == "fd://":
            command = [*gunicorn, "--bind", f"fd://{number}", "wsgi:app"]
        else:  # systemd gives the descriptor 3, and says so
            script = f"exec 3<&{number}; export LISTEN_FDS=1 LISTEN_PID=$$; exec "
            command = ["bash", "-c", script + shlex.join([*gunicorn, "wsgi:app"])]
        done = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, pass_fds=[number], timeout=60
        )
    assert done.returncode == 2
    assert b"ALLOW_ANONYMOUS: 0.0.0.0 can be reached" in done.stderr
    assert b"Traceback" not in done.stderr


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=20).ok
    except requests.ConnectionError:
        return False


def malformed(run_id: str, token: str) -> list[str]:
    """Return requests that gunicorn refuses, and which it would quote."""
    path = f"/runs/{run_id}/events?access_token={token}"
    end = f"Host: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    return [
        f"GET {path} x HTTP/1.1\r\n{end}",
        f"GET {path}\r\n{end}",
        f"GET {path} HTTP/9.9\r\n{end}",
        f"{token} {path} HTTP/1.1\r\n{end}",
        f"GET {path} HTTP/1.1\r\nAuthorization Bearer {token}\r\n{end}",
        f"GET {path} HTTP/1.1\r\nBearer {token}: x\r\n{end}",
        f"GET {path} HTTP/1.1\r\nX: a\r\n {token}\r\n{end}",
        f"GET {path} HTTP/1.1\r\nX: a\0{token}\r\n{end}",
        f"POST {path} HTTP/1.1\r\nTransfer-Encoding: {token}\r\n{end}",
        f"POST {path} HTTP/1.1\r\nContent-Length: {token}\r\n{end}",
        f"GET {path} HTTP/1.1\r\nX: {token * 40}\r\n{end}",
    ]


def test_no_token_reaches_a_log_or_an_answer(start_gateway, run_id, store):
    """Those of the query, of the header and of the cookie, right and wrong, and in a crash."""
    gateway = start_gateway(
        AUTH_SECRET=SECRET, AUTH_QUERY_TOKEN="true", ACCESS_LOG="true", LOG_LEVEL="debug"
    )
    good, bad = token(jti="the-id"), token()[:-5] + "wrong"
    url = f"{gateway.url}/runs/{run_id}/events"
    answers = []
    for each in (good, bad):
        ways = [
            ({}, {"access_token": each}),
            (bearer(each), {}),
            ({"Cookie": f"__Host-tailrace={each}"}, {}),
        ]
        for headers, query in ways:
            for path in (url, f"{url}?limit=x", f"{gateway.url}/nothing", f"{url}?after=1-x"):
                response = requests.get(path, params=query, headers=headers, timeout=20)
                answers.append((response.status_code, str(response.headers) + response.text))
            answers.append(
                (0, requests.post(url, json=[1], params=query, headers=headers, timeout=20).text)
            )
        for request in malformed(run_id, each):
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
                connection.sendall(request.encode())
                answers.append((0, read_until(connection, b"}").decode()))
                assert int(answers[-1][1].split()[1]) >= 400, answers[-1]
        with Stream(stream_url(gateway, run_id), bearer(good)) as stream:
            stream.wait_for_control("caught_up")
    assert 200 in {status for status, _ in answers}
    assert 401 in {status for status, _ in answers}
    gateway.stop(signal.SIGTERM)
    written = gateway.log.read_text() + "".join(text for _, text in answers)
    for each in (good, bad):
        for part in each.split("."):
            assert part[:40] not in written or part == good.split(".")[0]


def test_the_settings_are_shown_without_the_secret(redis_server):
    check = subprocess.run(
        [sys.executable, "-m", "app", "check"],
        cwd=ROOT,
        env={"AUTH_SECRET": SECRET, "REDIS_URL": redis_server.url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert check.returncode == 0
    assert SECRET not in check.stdout + check.stderr
    assert json.loads(check.stdout)["auth_secret"] == ["hidden"]


def test_the_command_makes_a_token_that_works(guarded, run_id):
    environ = {"AUTH_SECRET": SECRET}
    command = [sys.executable, "-m", "app", "token", "--append", f"{run_id}*", "--ttl", "5m"]
    made = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60
    )
    assert append(guarded, run_id, bearer(made.stdout.strip())) == 201
    assert append(guarded, "other", bearer(made.stdout.strip())) == 403
