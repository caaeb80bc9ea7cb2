"""The files for proxies: each program accepts its own, and the documents show lines of them."""

import subprocess
from pathlib import Path

import pytest

from tests.documents import GUIDES, blocks_of
from tests.field.proxies import (
    CONFIGURED,
    DEPLOY,
    PATH,
    Apache,
    Caddy,
    HAProxy,
    Nginx,
    Proxy,
    each_of,
    skip_if_missing,
)
from tests.servers import free_port

CHECKS: dict[type[Proxy], tuple[str, ...]] = {
    Nginx: ("nginx", "-t", "-c"),
    Apache: ("apache2", "-t", "-f"),
    HAProxy: ("haproxy", "-c", "-f"),
    Caddy: ("caddy", "validate", "--adapter", "caddyfile", "--config"),
}
LANGUAGES = {"nginx": Nginx, "apache": Apache, "haproxy": HAProxy, "caddy": Caddy}


def check(kind: type[Proxy], directory: Path, configuration: str) -> subprocess.CompletedProcess:
    path = directory / "checked.conf"
    path.write_text(configuration)
    environ = {"PATH": PATH, "HOME": str(directory)}
    command = [*CHECKS[kind], path]
    return subprocess.run(command, env=environ, capture_output=True, encoding="utf-8", timeout=50)


@pytest.mark.parametrize("kind", each_of(*CONFIGURED))
def test_the_program_accepts_its_file_and_no_other(kind, tmp_path):
    proxy = kind(tmp_path, free_port())
    proxy.write_certificate()
    configuration = proxy.configuration()
    done = check(kind, tmp_path, configuration)
    assert done.returncode == 0, done.stderr
    assert check(kind, tmp_path, configuration + "\nno_such_directive on;\n").returncode != 0


@skip_if_missing(Nginx)
def test_nginx_accepts_the_files_of_the_container(tmp_path):
    """They need no rights: nothing is written but below /tmp."""
    proxy = Nginx(tmp_path, free_port())
    proxy.write_certificate()
    folder = DEPLOY / "compose" / "nginx"
    for name in ("tailrace.conf", "upstream.conf"):
        text = (folder / name).read_text()
        (tmp_path / name).write_text(text.replace("/etc/nginx/tls", str(tmp_path)))
    text = (folder / "nginx.conf").read_text()
    assert "/etc/nginx/conf.d" in text
    for line in text.splitlines():
        if "_path" in line or line.startswith("pid"):
            assert " /tmp/" in line
    text = text.replace("/etc/nginx/conf.d/*.conf", f"{tmp_path}/[tu]*.conf")
    done = check(Nginx, tmp_path, text.replace("/tmp/", f"{tmp_path}/"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_documents_show_lines_of_the_file(language):
    [block] = [
        block for guide in GUIDES for block in blocks_of(guide) if block.language == language
    ]
    lines = {line.strip() for line in LANGUAGES[language].documented().splitlines()}
    assert {line.strip() for line in block.code.splitlines()} <= lines


@pytest.mark.parametrize("name", ["tailrace.conf", "nginx.conf", "upstream.conf"])
def test_nginx_never_repeats_a_post_and_forgets_idle_connections_in_time(name):
    for folder in (DEPLOY / "nginx", DEPLOY / "compose" / "nginx"):
        text = (folder / name).read_text()
        rules = [line.strip() for line in text.splitlines() if not line.strip().startswith("#")]
        assert not any("non_idempotent" in rule for rule in rules)
        assert ("keepalive_timeout 2s;" in rules) is (name == "upstream.conf")
