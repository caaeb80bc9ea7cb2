"""Proxies between the gateway and its clients, configured as docs/deploy.md shows."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import ClassVar, Self

import psutil
import pytest
import requests
from _pytest.mark import ParameterSet

from tests.documents import blocks_of
from tests.servers import ROOT, Server, free_port, wait_until

# Debian installs them where only root's PATH leads.
PATH = f"{os.environ['PATH']}:/usr/sbin"
APACHE_MODULES = Path("/usr/lib/apache2/modules")


class Proxy(Server):
    """A proxy on a free port that leads to a gateway. It needs no rights, and no other files."""

    program: ClassVar[str]
    language: ClassVar[str]
    forwards_host: ClassVar[bool] = True

    def __init__(self, directory: Path, gateway_port: int, shown: str | None = None):
        """Take the configuration `shown`, or else that of the document."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._directory = directory
        self._gateway = f"127.0.0.1:{gateway_port}"
        self._shown = shown
        self.process: subprocess.Popen | None = None

    @classmethod
    def documented(cls) -> str:
        """Return the configuration that the document shows."""
        blocks = blocks_of(ROOT / "docs" / "deploy.md")
        [shown] = [block.code for block in blocks if block.language == cls.language]
        return shown

    def start(self) -> Self:
        binary = shutil.which(self.program, path=PATH)
        configuration = self._directory / f"{self.program}.conf"
        configuration.write_text(self.configuration())
        with (self._directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [binary, *self.arguments(configuration)],
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": str(self._directory)},
            )
        wait_until(self._answers, f"{self.program} answers")
        return self

    def stop(self) -> None:
        """Kill the proxy and its workers with SIGKILL, which breaks every connection."""
        if self.process is not None:
            processes = []
            if self.process.poll() is None:
                processes = psutil.Process(self.process.pid).children(recursive=True)
                self.process.kill()
            for each in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            self.process.wait()
            psutil.wait_procs(processes)  # a worker may hold the port for a moment longer
            self.process = None

    def configuration(self) -> str:
        """Return the file that the proxy reads, around the documented configuration."""
        raise NotImplementedError

    def arguments(self, configuration: Path) -> list[str | Path]:
        raise NotImplementedError

    def restart(self) -> None:
        self.stop()
        self.start()

    def shown(self) -> str:
        """Return what the document shows, but leading to the gateway of the test."""
        shown = self._shown or self.documented()
        assert "127.0.0.1:8082" in shown
        return shown.replace("127.0.0.1:8082", self._gateway)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self._directory / "log").read_text()
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            return requests.get(f"{self.url}/healthz", timeout=5).ok
        return False


class Nginx(Proxy):
    program = "nginx"
    language = "nginx"
    forwards_host = False

    def configuration(self) -> str:
        names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = " ".join(f"{name}_temp_path {self._directory};" for name in names)
        return (
            f"user {pwd.getpwuid(os.getuid()).pw_name};\ndaemon off; pid {self._directory}/pid;\n"
            f"error_log {self._directory}/log; events {{}}\n"
            f"http {{ access_log off; {temporary}\n"
            f"server {{ listen 127.0.0.1:{self.port};\n{self.shown()} }} }}\n"
        )

    def arguments(self, configuration: Path) -> list[str | Path]:
        return ["-c", configuration]

    def reload(self) -> None:
        """Start new workers. The former ones stay for their open connections."""
        before = self._workers()
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: set(self._workers()) - set(before), "new workers")

    def _workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()


class Apache(Proxy):
    program = "apache2"
    language = "apache"
    forwards_host = False

    def configuration(self) -> str:
        modules = ("mpm_event", "authz_core", "proxy", "proxy_http", "env", "reqtimeout")
        loaded = "".join(f"LoadModule {m}_module {APACHE_MODULES}/mod_{m}.so\n" for m in modules)
        return (
            f"ServerRoot {self._directory}\nServerName localhost\nPidFile {self._directory}/pid\n"
            f"DefaultRuntimeDir {self._directory}\nErrorLog {self._directory}/log\n{loaded}"
            # Debian allows a body 20 s.
            "RequestReadTimeout header=20-40,minrate=500 body=1,minrate=500\n"
            f"Listen 127.0.0.1:{self.port}\n<VirtualHost *>\n{self.shown()}"
            "</VirtualHost>\n"
        )

    def arguments(self, configuration: Path) -> list[str | Path]:
        return ["-DFOREGROUND", "-f", configuration]


class HAProxy(Proxy):
    program = "haproxy"
    language = "haproxy"

    def configuration(self) -> str:
        shown = self.shown()
        assert "bind :80\n" in shown
        return shown.replace("bind :80\n", f"bind 127.0.0.1:{self.port}\n")

    def arguments(self, configuration: Path) -> list[str | Path]:
        return ["-db", "-f", configuration]


class Caddy(Proxy):
    program = "caddy"
    language = "caddy"

    def configuration(self) -> str:
        shown = self.shown()
        assert "\nexample.com {\n" in shown
        address = f"http://:{self.port} {{\n\tbind 127.0.0.1\n"
        return "{\n\tadmin off\n}\n" + shown.replace("example.com {\n", address)

    def arguments(self, configuration: Path) -> list[str | Path]:
        return ["run", "--adapter", "caddyfile", "--config", configuration]


class Varnish(Proxy):
    """Varnish without any configuration, as its package installs it."""

    program = "varnishd"

    def configuration(self) -> str:
        return ""

    def arguments(self, configuration: Path) -> list[str | Path]:
        return [
            *("-F", "-n", self._directory / "varnish", "-b", self._gateway),
            *("-a", f"127.0.0.1:{self.port}"),
        ]


CONFIGURED = (Nginx, Apache, HAProxy, Caddy)


def skip_if_missing(proxy: type[Proxy]) -> pytest.MarkDecorator:
    """Skip tests where a proxy is not installed, except in CI, which installs it."""
    missing = shutil.which(proxy.program, path=PATH) is None
    return pytest.mark.skipif(
        missing and "CI" not in os.environ,
        reason=f"{proxy.program} is not installed (.ci/run installs it)",
    )


def each_of(*proxies: type[Proxy]) -> list[ParameterSet]:
    """Return the parameters of a fixture or test that is about each of some proxies."""
    return [pytest.param(each, id=each.program, marks=skip_if_missing(each)) for each in proxies]
