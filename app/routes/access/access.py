"""Access: each view declares the action that it is, and each request is asked whether it may."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

from flask import Flask, current_app, request
from werkzeug.exceptions import HTTPException, ServiceUnavailable

from ...auth.authenticator import Authenticator, TooManyFailures
from ...auth.grants import Action, Patterns
from ...auth.identity import Identity, KeysNotKnown, NotAccepted
from ...auth.limits import Rate
from ...auth.revocation_log import REVOCATIONS
from ...metrics.catalog import STREAMS_REFUSED
from ...server.addresses import is_loopback
from ...streaming.event import REQUEST_CATEGORY
from ...streaming.event_store import EventStore
from ...streaming.follow.open_streams import OpenStreams
from ...streaming.new_event import NewEvent
from .hosts import host_of

# When to ask again for a stream, if another one of the subject must end for it.
RETRY_STREAM_SECONDS = 5

REALM = "tailrace"

# The cookie that a browser keeps only from this host by HTTPS, and the one for HTTP on loopback.
SECURE_COOKIE, LOOPBACK_COOKIE = "__Host-tailrace", "tailrace"

# What proxies add to requests.
_OF_PROXIES = (
    *("HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO"),
    *("HTTP_X_FORWARDED_HOST", "HTTP_X_REAL_IP"),
)

# In any place of a header, which may be two that were joined.
_BEARER = re.compile(r"(?:^|[\s,])bearer(?:[\s,]|$)", re.IGNORECASE)

_SAFE_METHODS = ("GET", "HEAD")
_IDENTITY, _ONLY_REQUESTS = "tailrace.identity", "tailrace.only_requests"

View = TypeVar("View", bound=Callable[..., Any])


def declares(action: Action | Literal["open", "list"]) -> Callable[[View], View]:
    """Declare what a view does.

    "open" is for everybody, and "list" for who may read any run: the view asks `readable`.
    """

    def declare(view: View) -> View:
        vars(view)["action"] = action
        return view

    return declare


class NotAuthenticated(HTTPException):
    """401 (RFC 6750, section 3): no token came, or one that is not accepted."""

    code = 401

    def __init__(self, defect: str | None = None) -> None:
        super().__init__(defect or "a bearer token or an API key is needed")
        self.headers = {"WWW-Authenticate": f'Bearer realm="{REALM}"'}
        if defect is not None:
            self.headers["WWW-Authenticate"] += ', error="invalid_token"'


class NotPermitted(HTTPException):
    """403: the bearer may not do this, whether or not the run exists."""

    code = 403

    def __init__(self, detail: str, scope: str | None = None) -> None:
        super().__init__(detail)
        self.headers = {}
        if scope is not None:
            challenge = f'Bearer realm="{REALM}", error="insufficient_scope", scope="{scope}"'
            self.headers = {"WWW-Authenticate": challenge}


class TooMany(HTTPException):
    """429: the bearer, or its address, has done too much of something."""

    code = 429

    def __init__(self, detail: str, seconds: float) -> None:
        super().__init__(detail)
        self.headers = {"Retry-After": str(int(seconds) + 1)}


class Access:
    """Decides for every request of a worker. Without an authenticator everything is allowed."""

    def __init__(
        self,
        authenticator: Authenticator | None = None,
        *,
        public_read: tuple[str, ...] = (),
        query_token: bool = False,
        origins: tuple[str, ...] = (),
        max_appends_per_second: int | None = None,
    ) -> None:
        """`origins` are those whose pages may send the cookie."""
        self._authenticator = authenticator
        self._public = Patterns(public_read)
        self._query_token = query_token
        self._origins = {origin.lower() for origin in origins}
        self._max_appends = max_appends_per_second
        self._appends = Rate(max_appends_per_second or 1, max_appends_per_second or 1)

    @property
    def is_on(self) -> bool:
        return self._authenticator is not None

    @property
    def schemes(self) -> dict[str, dict[str, Any]]:
        """How requests may bring a token or key, by name, as OpenAPI has it; none if it is off."""
        if not self.is_on:
            return {}
        query = {"query": _scheme("query", "access_token")} if self._query_token else {}
        return {
            "bearer": {"type": "http", "scheme": "bearer"},
            "cookie": _scheme("cookie", SECURE_COOKIE),
            "loopback_cookie": _scheme("cookie", LOOPBACK_COOKIE),
            **query,
        }

    def init_app(self, app: Flask) -> None:
        """Ask for every request. Raises TypeError if a view has not declared its action."""
        for rule in app.url_map.iter_rules():
            if not hasattr(app.view_functions[rule.endpoint], "action"):
                raise TypeError(f"the view {rule.endpoint} does not declare its action")
        if self.is_on:
            app.before_request(self._check)

    def check_ready(self, store: EventStore) -> None:
        """Raise what `EventStore.check_ready` does, for what authentication needs too."""
        if self._authenticator is None:
            store.check_ready()
        else:
            store.check_ready(REVOCATIONS)
            self._authenticator.revocation_log.wait_until_read()

    def revoke(self, revocation: dict[str, Any]) -> None:
        """Revoke tokens, for all gateways. Raises StoreUnavailable."""
        assert self._authenticator is not None
        self._authenticator.revocation_log.append(revocation)

    def identify(self) -> Identity | None:
        """Return whose token or key the request brings, None if it brings none.

        Raises NotAuthenticated, NotPermitted, TooMany, and ServiceUnavailable or StoreUnavailable
        until the keys and the revocations were read.
        """
        assert self._authenticator is not None
        found = self._credential()
        if found is None:
            return None
        credential, is_cookie = found
        try:
            identity = self._authenticator.identify(credential, request.remote_addr or "")
        except NotAccepted as error:
            raise NotAuthenticated(str(error)) from None
        except TooManyFailures as error:
            raise TooMany(str(error), error.retry_after) from None
        except KeysNotKnown as error:
            raise ServiceUnavailable(str(error)) from None
        if is_cookie and request.method not in _SAFE_METHODS:
            self.check_origin()
        return identity

    def check_admin(self) -> None:
        """Raise what `identify` raises, and NotPermitted unless the bearer may do everything."""
        identity = self.identify()
        if identity is None:
            raise NotAuthenticated
        if not identity.grants.allow("admin", None):
            raise NotPermitted("the token does not grant admin here", "admin")

    def check_origin(self) -> None:
        """Raise NotPermitted if a page of another origin has sent the request (CSRF)."""
        if not self._is_same_origin():
            raise NotPermitted("a page of another origin may not do this with the cookie")

    def check_events(self, new_events: Sequence[NewEvent], lease: int | None) -> None:
        """Raise NotPermitted or TooMany if the bearer may not append such events, or so many.

        Raises NotAuthenticated if the token has ended while the body came.
        """
        if self.is_on:
            self.check_still()
            self.event_check()(new_events, lease)

    def event_check(self) -> Callable[[Sequence[NewEvent], int | None], None]:
        """Return a check of events for the bearer of this request, for use after it too."""
        identity, only_requests = current_identity(), _ONLY_REQUESTS in request.environ

        def check(new_events: Sequence[NewEvent], lease: int | None) -> None:
            if only_requests and any(each.category != REQUEST_CATEGORY for each in new_events):
                raise NotPermitted("only events of the category request may be appended", "append")
            if only_requests and lease is not None:  # its end would end the run
                raise NotPermitted("a request may have no lease_seconds", "append")
            self.count_events(identity, len(new_events))

        return check

    def count_events(self, identity: Identity | None, count: int) -> None:
        """Count events that a bearer appends; raises TooMany, and then counts none."""
        if self._max_appends is None or identity is None:
            return
        wait = self._appends.seconds_until(identity.account, count)
        if wait > 0:
            raise TooMany(f"more than {self._max_appends} events a second", wait)
        self._appends.take(identity.account, count)

    def remembered_producer(self, credential: str | None, run_id: str) -> Identity | None:
        """Return the bearer of a token or key, if it is known already and may append to the run."""
        if self._authenticator is None or credential is None:
            return None
        identity = self._authenticator.remembered(credential)
        may = identity is not None and identity.grants.allow("append", run_id)
        return identity if may else None

    def readable(self) -> Patterns:
        """Return the patterns of the runs that the bearer of this request may read."""
        if not self.is_on:
            return Patterns(("*",))
        identity = current_identity()
        granted = identity.grants.patterns_of("read") if identity is not None else ()
        return Patterns(tuple(sorted({*granted, *self._public.patterns})))

    def check_readable(self, run_ids: Iterable[str]) -> None:
        """Raise NotPermitted, which names the run, if the bearer may not read all of them.

        Raises NotAuthenticated if there is no bearer.
        """
        may_read = self.readable().matcher()
        refused = next((run_id for run_id in run_ids if not may_read(run_id)), None)
        if refused is None:
            return
        if current_identity() is None:
            raise NotAuthenticated
        raise NotPermitted(f"the token does not grant read of the run {refused}", "read")

    def owner_of_stream(self, streams: OpenStreams, followed: Sequence[str]) -> Identity | None:
        """Return whose stream is about to open, which follows some runs.

        The token is still good.

        Raises TooMany if the bearer may have no more streams, and NotAuthenticated. Admit the
        stream at once: what is revoked later ends the streams that were admitted.
        """
        self.check_still()
        owner = current_identity()
        if owner is not None and streams.is_too_much_for(owner, followed):
            STREAMS_REFUSED.of("subject").add()
            raise TooMany("the subject has as many streams as it may", RETRY_STREAM_SECONDS)
        return owner

    def check_still(self) -> None:
        """Raise NotAuthenticated if the token has ended since its request was let in."""
        identity = current_identity()
        if identity is None or self._authenticator is None:
            return
        try:
            self._authenticator.check(identity)
        except NotAccepted as error:
            raise NotAuthenticated(str(error)) from None

    def _check(self) -> None:
        if request.url_rule is None or request.method == "OPTIONS":
            return  # 404 and 405 say nothing; a preflight brings no token
        view: Any = current_app.view_functions[request.url_rule.endpoint]
        action = view.action
        if action == "open":
            return
        run_id: str | None = (request.view_args or {}).get("run_id")
        identity = self.identify()
        if identity is not None:
            request.environ[_IDENTITY] = identity
        if action == "list":
            if self.readable().patterns:
                return
            action = "read"
        if identity is not None:
            if identity.grants.allow(action, run_id):
                return
            if action == "append" and identity.grants.allow("request", run_id):
                request.environ[_ONLY_REQUESTS] = True
                return
        if action == "read" and run_id is not None and self._public.match(run_id):
            return
        if identity is None:
            raise NotAuthenticated
        raise NotPermitted(f"the token does not grant {action} here", action)

    def _credential(self) -> tuple[str, bool] | None:
        """Return the token or key of the request, and whether it came as a cookie."""
        authorization = request.environ.get("HTTP_AUTHORIZATION", "")
        if (bearer := bearer_token(authorization)) is not None:
            return bearer, False
        if _BEARER.search(authorization):  # of another scheme it is for a proxy
            raise NotAuthenticated("there must be one bearer token")
        if self._query_token and (token := request.args.get("access_token")) is not None:
            return token, False
        if LOOPBACK_COOKIE not in request.environ.get("HTTP_COOKIE", ""):
            return None  # nor is the other there, whose name contains it
        token = request.cookies.get(SECURE_COOKIE)
        if token is None and is_direct():
            token = request.cookies.get(LOOPBACK_COOKIE)
        return None if token is None else (token, True)

    def _is_same_origin(self) -> bool:
        """Return whether the gateway's own pages, or those of a named origin, sent the request."""
        origin = request.headers.get("Origin", "").lower()
        if origin in self._origins:
            return True
        fetch_site = request.headers.get("Sec-Fetch-Site")
        if fetch_site is not None:
            return fetch_site == "same-origin"
        host = request.host.lower()
        return origin in (f"http://{host}", f"https://{host}")


def _scheme(place: str, name: str) -> dict[str, str]:
    return {"type": "apiKey", "in": place, "name": name}


def bearer_token(authorization: str) -> str | None:
    """Return the token or key of a header Authorization, None if it has another scheme."""
    return authorization[7:].strip() if authorization[:7].lower() == "bearer " else None


def is_direct() -> bool:
    """Whether the client is on this machine, by plain HTTP, with no proxy that tells of itself."""
    environ = request.environ
    return (
        request.scheme == "http"
        and is_loopback(host_of(request.host))
        and not any(name in environ for name in _OF_PROXIES)
    )


def current_identity() -> Identity | None:
    """Return whose request the current one is, None if nobody was asked."""
    identity: Identity | None = request.environ.get(_IDENTITY)
    return identity
