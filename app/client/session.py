"""The session that sends requests: which URLs, proxies and redirects it accepts."""

from collections.abc import Mapping
from http.cookiejar import DefaultCookiePolicy

import requests
import urllib3

from ..streaming.errors import InvalidInput, Refused
from .connections import Adapter

MAX_REDIRECTS = 10


class Session(requests.Session):
    """A session that threads may share: its only state is its pool of connections."""

    def __init__(self, adapter: Adapter, headers: Mapping[str, str], verify: bool | str):
        super().__init__()
        self.headers.update(headers)
        self.verify = verify
        self.max_redirects = MAX_REDIRECTS
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self._adapter = adapter
        self.adapters.clear()
        for scheme in ("http://", "https://"):
            self.mount(scheme, adapter)

    def check_url(self, url: str) -> None:
        """Raise InvalidInput unless requests can be sent to `url`, as the environment says.

        That includes its proxies, and its certificates for https. Nothing is sent.
        """
        parts = _parse(url)
        if parts is None or parts.query is not None or parts.fragment is not None:
            raise InvalidInput("url", "must be http(s)://host[:port][/path]")
        settings = self.merge_environment_settings(url, {}, None, None, None)
        try:
            request = self.prepare_request(requests.Request("GET", url))
            pool = self._adapter.get_connection_with_tls_context(
                request, settings["verify"], settings["proxies"], settings["cert"]
            )
            self._adapter.check_certificates(pool, url, settings["verify"], settings["cert"])
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise InvalidInput("url", f"cannot be reached as set up: {error}") from error

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return where a response to a GET redirects. Raises Refused if that is no URL."""
        if resp.request.method != "GET":  # requests would turn a POST into a GET
            return None
        try:
            target = super().get_redirect_target(resp)
            if target is None or _parse(requests.compat.urljoin(resp.url, target)) is not None:
                return target
        except ValueError:  # it is not UTF-8, or its host has unbalanced brackets
            target = resp.headers["Location"]
        resp.close()
        raise Refused(resp.status_code, f"it redirects to {target!r}, which is no URL of HTTP")


def _parse(url: str) -> urllib3.util.Url | None:
    """Return the parts of a URL of HTTP, None if it is none that can be requested."""
    try:
        prepared = requests.Request("GET", url).prepare().url
        parts = urllib3.util.parse_url(prepared or "")
        host = (parts.host or "").strip("[]")
        host.encode("idna")
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError):
        return None
    return parts if parts.scheme in ("http", "https") and host else None
