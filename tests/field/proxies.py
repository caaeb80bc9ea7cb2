"""Proxies between gateways and their clients, configured by the files in deploy/."""

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
from functools import cache
from pathlib import Path
from typing import ClassVar, Self

import psutil
import pytest
import requests
import trustme
from _pytest.mark import ParameterSet

from tests.servers import ROOT, Server, free_port, wait_until

DEPLOY = ROOT / "deploy"

# Debian installs them where only root's PATH leads.
PATH = f"{os.environ['PATH']}:/usr/sbin"
APACHE_MODULES = Path("/usr/lib/apache2/modules")


@cache
def authority() -> trustme.CA:
    """Return what has issued the certificates of all proxies."""
    return trustme.CA()


def replaced(text: str, changes: dict[str, str]) -> str:
    """Return a text with changes, each of which must have something to change."""
    for before, after in changes.items():
        assert before in text, before
        text = text.replace(before, after)
    return text


class Proxy(Server):
    """A proxy on free ports, in front of one gateway or two. It needs no rights.

    `url` is for plain HTTP, which the file in deploy/ redirects. `tls_url` is as in that file.
    Without `other_port`, nothing listens where the second gateway should be.
    """

    program: ClassVar[str]
    file: ClassVar[Path]
    forwards_host: ClassVar[bool] = True
    answers_early: ClassVar[bool] = True  # before the end of the request's body

    def __init__(
        self,
        directory: Path,
        gateway_port: int,
        shown: str | None = None,
        other_port: int | None = None,
    ):
        """Take the configuration `shown`, or else that of the file."""
        self.port, self.tls_port, self.redirecting_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.tls_url = f"https://localhost:{self.tls_port}"
        self.authority = directory / "authority.pem"
        self._directory = directory
        self._gateways = {
            "127.0.0.1:8082": f"127.0.0.1:{gateway_port}",
            "127.0.0.1:8083": f"127.0.0.1:{other_port or free_port()}",
        }
        self._shown = shown
        self.process: subprocess.Popen | None = None

    @classmethod
    def documented(cls) -> str:
        """Return the configuration that an operator copies."""
        return cls.file.read_text()

    def start(self) -> Self:
        binary = shutil.which(self.program, path=PATH)
        self.write_certificate()
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
        """Return what the proxy reads: the file, with the ports and paths of the test."""
        raise NotImplementedError

    def arguments(self, configuration: Path) -> list[str | Path]:
        raise NotImplementedError

    def restart(self) -> None:
        self.stop()
        self.start()

    def write_certificate(self) -> None:
        """Write a certificate, its key, and what has issued it."""
        issued = authority().issue_cert("tailrace.example", "localhost", "127.0.0.1")
        authority().cert_pem.write_to_path(self.authority)
        issued.private_key_pem.write_to_path(self._directory / "tailrace.key")
        issued.private_key_and_cert_chain_pem.write_to_path(self._directory / "tailrace.pem")
        (self._directory / "tailrace.crt").write_bytes(
            b"".join(each.bytes() for each in issued.cert_chain_pems)
        )

    def shown(self, changes: dict[str, str]) -> str:
        """Return the file with changes, and leading to the gateways of the test."""
        return replaced(self._shown or self.documented(), self._gateways | changes)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self._directory / "log").read_text()
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            return requests.get(f"{self.url}/healthz", timeout=5).ok
        return False


class Nginx(Proxy):
    """nginx with deploy/nginx/, or with one `location` in a server of its own."""

    program = "nginx"
    file = DEPLOY / "nginx" / "tailrace.conf"

    def configuration(self) -> str:
        site = self._shown or self.documented()
        here = self._directory / "conf.d"
        here.mkdir(exist_ok=True)
        if "server {" in site:
            listen = f"listen 127.0.0.1:{self.port}; listen 127.0.0.1:{self.tls_port} ssl http2;"
            changes = {
                "listen 80;": f"listen 127.0.0.1:{self.redirecting_port};",
                "listen 443 ssl http2;": listen,
                "/etc/nginx/tls": str(self._directory),
            }
            upstream = (DEPLOY / "nginx" / "upstream.conf").read_text()
            (here / "tailrace.conf").write_text(replaced(site, changes))
            (here / "upstream.conf").write_text(replaced(upstream, self._gateways))
        else:
            location = replaced(site, {"127.0.0.1:8082": self._gateways["127.0.0.1:8082"]})
            server = f"server {{ listen 127.0.0.1:{self.port};\n{location} }}\n"
            (here / "tailrace.conf").write_text(server)
        names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{name}_temp_path {self._directory};\n" for name in names)
        changes = {
            "user www-data;": f"user {pwd.getpwuid(os.getuid()).pw_name};\ndaemon off;",
            "/run/nginx.pid": f"{self._directory}/pid",
            "/var/log/nginx/error.log": f"{self._directory}/log",
            "/etc/nginx/conf.d": str(here),
            "http {": f"http {{\n{temporary}",
        }
        return replaced((DEPLOY / "nginx" / "nginx.conf").read_text(), changes)

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
    answers_early = False
    file = DEPLOY / "apache" / "tailrace.conf"

    def configuration(self) -> str:
        [enabled] = re.findall(r"^# a2enmod (.*)$", self.documented(), re.MULTILINE)
        # What Debian has enabled, or what the others need there.
        modules = ["mpm_event", "authz_core", "alias", "proxy", "slotmem_shm", *enabled.split()]
        loaded = "".join(f"LoadModule {m}_module {APACHE_MODULES}/mod_{m}.so\n" for m in modules)
        shown = self.shown(
            {"*:80>": f"*:{self.redirecting_port}>", "*:443>": f"*:{self.tls_port}>"}
        )
        shown = replaced(shown, {"/etc/apache2/tls": str(self._directory)})
        last = shown.rpartition(f"<VirtualHost *:{self.tls_port}>")[2]
        plain = re.sub(r"^ *(SSL|Protocols).*\n", "", last, flags=re.MULTILINE)
        listen = "".join(
            f"Listen 127.0.0.1:{port}\n"
            for port in (self.port, self.tls_port, self.redirecting_port)
        )
        return (
            f"ServerRoot {self._directory}\nServerName localhost\nPidFile {self._directory}/pid\n"
            f"DefaultRuntimeDir {self._directory}\nErrorLog {self._directory}/log\n{loaded}"
            # Debian allows a body 20 s.
            "RequestReadTimeout header=20-40,minrate=500 body=1,minrate=500\n"
            f"{listen}{shown}<VirtualHost *:{self.port}>{plain}"
        )

    def arguments(self, configuration: Path) -> list[str | Path]:
        return ["-DFOREGROUND", "-f", configuration]


class HAProxy(Proxy):
    program = "haproxy"
    file = DEPLOY / "haproxy" / "haproxy.cfg"

    def configuration(self) -> str:
        binds = f"bind 127.0.0.1:{self.redirecting_port}\n    bind 127.0.0.1:{self.port}\n"
        return self.shown(
            {
                "bind :80\n": binds,
                "bind :443 ": f"bind 127.0.0.1:{self.tls_port} ",
                "unless { ssl_fc }": f"unless {{ ssl_fc }} or {{ dst_port {self.port} }}",
                "    user haproxy\n    group haproxy\n": "",
                "/etc/haproxy/tailrace.pem": str(self._directory / "tailrace.pem"),
            }
        )

    def arguments(self, configuration: Path) -> list[str | Path]:
        return ["-db", "-f", configuration]


class Caddy(Proxy):
    program = "caddy"
    file = DEPLOY / "caddy" / "Caddyfile"

    def configuration(self) -> str:
        options = (
            f"admin off\nhttp_port {self.redirecting_port}\nhttps_port {self.tls_port}\n"
            "skip_install_trust"
        )
        _, site, body = self.shown({}).partition("tailrace.example {\n")
        assert site
        certificate = f"{self._directory}/tailrace.crt {self._directory}/tailrace.key"
        return (
            f"{{\n{options}\n}}\n"
            f"http://:{self.port} {{\n\tbind 127.0.0.1\n{body}"
            f"https:// {{\n\tbind 127.0.0.1\n\ttls {certificate}\n{body}"
        )

    def arguments(self, configuration: Path) -> list[str | Path]:
        return ["run", "--adapter", "caddyfile", "--config", configuration]


class Varnish(Proxy):
    """Varnish without any configuration, as its package installs it."""

    program = "varnishd"

    def configuration(self) -> str:
        return ""

    def arguments(self, configuration: Path) -> list[str | Path]:
        return [
            *("-F", "-n", self._directory / "varnish"),
            *("-b", self._gateways["127.0.0.1:8082"]),
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
