"""The session that sends requests: which redirects and certificates it accepts."""

from collections.abc import Mapping
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import urllib3

from ..protocol.options import MAX_REDIRECTS
from ..streaming.errors import InvalidInput, Refused
from .connections import Adapter


class Session(requests.Session):
    """A session that threads may share: its only state is its pool of connections.

    Args:
        adapter: makes the connections.
        headers: of the user, sent with every request.
        verify: as `check_verify` returns it.
        has_token: whether requests carry a token, so that no netrc may replace it.
    """

    def __init__(
        self, adapter: Adapter, headers: Mapping[str, str], verify: bool | str, has_token: bool
    ):
        super().__init__()
        self.headers.update(headers)
        self.verify = verify
        self.max_redirects = MAX_REDIRECTS
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self._adapter = adapter
        self._secret_headers = ("Authorization", *headers)
        self._has_token = has_token
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

    def merge_environment_settings(
        self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
    ) -> Any:
        """Return the settings of a request. REQUESTS_CA_BUNDLE counts only if `verify` is True.

        In `requests` that variable counts before the `verify` of a session.
        """
        if verify is None:
            verify = self.verify
        return super().merge_environment_settings(url, proxies, stream, verify, cert)

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """Take the token and the headers of the user out of a redirect to another server.

        `requests` takes out the token only, and gives the next server the password of a netrc,
        which may be the same server.
        """
        urls = str(response.request.url), str(prepared_request.url)
        if self.should_strip_auth(*urls):  # type: ignore[no-untyped-call]
            for name in self._secret_headers:
                prepared_request.headers.pop(name, None)
        if not self._has_token:
            super().rebuild_auth(prepared_request, response)  # type: ignore[no-untyped-call]

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
