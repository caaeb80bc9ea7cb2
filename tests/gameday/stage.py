"""The system that is broken: Redis on a small disk, two gateways behind nginx, and Prometheus."""

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import requests

from app.auth.tokens import make_token
from tests.prometheus import Prometheus
from tests.servers import ROOT, GatewayServer, RedisServer, Server, free_port, wait_until

SECRET = "the-secret-of-a-game-day-is-32-bytes-long"

# A full disk is a file system in memory, of this size.
DISK_BYTES = 256 * 1024 * 1024

REDIS_OPTIONS = ("--appendonly", "yes", "--appendfsync", "everysec")


class Stage:
    """All servers. `directory` holds their logs."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.disk = directory / "disk"
        self.disk.mkdir()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            options = f"size={DISK_BYTES}"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.disk], check=True)
            stack.callback(subprocess.run, ["umount", "-l", self.disk], check=True)
            self.redis = stack.enter_context(RedisServer(self.disk, *REDIS_OPTIONS))
            self.relay = stack.enter_context(Relay(self.redis.port))
            url = f"redis://127.0.0.1:{self.relay.port}/0"
            self.gateways = [
                stack.enter_context(self._gateway(name, each))
                for name, each in (("gateway-1", self.redis.url), ("gateway-2", url))
            ]
            ports = [gateway.port for gateway in self.gateways]
            self.nginx = stack.enter_context(Balancer(self.directory, ports))
            targets = {
                f"gateway-{number}:9100": f"127.0.0.1:{gateway.metrics_port}"
                for number, gateway in enumerate(self.gateways, 1)
            }
            self.prometheus = stack.enter_context(Prometheus(self.directory, targets))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """Where the clients go."""
        return self.nginx.url

    @property
    def spin_file(self) -> Path:
        return self.directory / "spin"

    def logs(self) -> dict[str, Path]:
        """Return the logs of the servers by their names."""
        gateways = {each.log.name.removesuffix(".log"): each.log for each in self.gateways}
        return {**gateways, "redis": self.disk / "log", "nginx": self.nginx.log}

    def _gateway(self, name: str, redis_url: str) -> "Gateway":
        return Gateway(
            redis_url,
            self.directory / f"{name}.log",
            application="tests.gameday.wsgi:app",
            WEB_CONCURRENCY=2,
            AUTH_SECRET=SECRET,
            HEARTBEAT_SECONDS=5,
            RETRY_MS=500,
            SPIN_FILE=self.spin_file,
        )


def token(*, jti: str = "", sub: str = "operator", **grants: str) -> str:
    """Return a token that is good for an hour."""
    claim = {action: [pattern] for action, pattern in grants.items()}
    more = {"jti": jti} if jti else {}
    return make_token(SECRET, "tailrace", claim, 3600, aud="tailrace", sub=sub, **more)


class Gateway(GatewayServer):
    """A gateway with a port for metrics."""

    def __init__(self, redis_url: str, log: Path, **settings: object):
        self.metrics_port = free_port()
        super().__init__(redis_url, log, METRICS_PORT=self.metrics_port, **settings)

    def __exit__(self, *exc_info: object) -> None:
        """Stop the gateway; a worker that spins is killed with it."""
        for worker in self.workers():
            worker.kill()
        self.stop()


class Relay(Server):
    """Passes on connections to Redis in a process of its own, which can be stopped."""

    def __init__(self, to_port: int):
        self.port = free_port()
        self._to_port = to_port
        self.process: subprocess.Popen | None = None

    def start(self) -> Self:
        ports = [str(self.port), str(self._to_port)]
        command = [sys.executable, "-m", "tests.gameday.relay", *ports]
        self.process = subprocess.Popen(command, cwd=ROOT)
        return self


class Balancer(Server):
    """nginx in front of both gateways, with one worker process."""

    def __init__(self, directory: Path, ports: list[int]):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / "nginx.log"
        self._directory = directory
        self._ports = ports
        self.process: subprocess.Popen | None = None

    def start(self) -> Self:
        configuration = self._directory / "nginx.conf"
        configuration.write_text(self._configuration())
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        self.process = subprocess.Popen([program, "-c", configuration])
        wait_until(self._answers, "nginx answers")
        return self

    def _configuration(self) -> str:
        names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = " ".join(f"{name}_temp_path {self._directory};" for name in names)
        servers = " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in self._ports)
        return (
            # One process, so that it can be stopped as a whole.
            f"user {pwd.getpwuid(os.getuid()).pw_name}; daemon off; master_process off;\n"
            f"pid {self._directory}/nginx.pid; error_log {self.log};\n"
            "events { worker_connections 4096; }\n"
            f"http {{ access_log off; {temporary}\n"
            f"upstream tailrace {{ least_conn; {servers} keepalive 64; keepalive_timeout 2s; }}\n"
            f"server {{ listen 127.0.0.1:{self.port} backlog=1024;\n"
            "location / { proxy_pass http://tailrace; proxy_set_header Host $host;\n"
            'proxy_http_version 1.1; proxy_set_header Connection "";\n'
            "proxy_request_buffering off; client_max_body_size 0; client_body_timeout 1h;\n"
            "proxy_connect_timeout 1s; proxy_next_upstream error timeout; } } }\n"
        )

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            return requests.get(f"{self.url}/healthz", timeout=5).ok
        return False
