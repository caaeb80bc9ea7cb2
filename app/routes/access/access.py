"""Access: each view declares the action that it is, and each request is asked whether it may."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from flask import Flask, current_app, request
from werkzeug.exceptions import HTTPException

from ...auth.authenticator import Authenticator, TooManyFailures
from ...auth.grants import Action, Patterns
from ...auth.identity import Identity, NotAccepted
from ...auth.limits import Rate
from ...auth.revocation_log import REVOCATIONS, RevocationLog
from ...server.addresses import is_loopback
from ...streaming.event_store import EventStore
from ...streaming.follow.open_streams import OpenStreams
from ...streaming.new_event import NewEvent
from .hosts import host_of

# When to ask again for a stream, if another one of the subject must end for it.
RETRY_STREAM_SECONDS = 5

REALM = "tailrace"

# The cookie that a browser keeps only from HTTPS, and the one for HTTP on loopback.
SECURE_COOKIE, LOOPBACK_COOKIE = "__Secure-tailrace", "tailrace"

_SAFE_METHODS = ("GET", "HEAD")
_IDENTITY, _ONLY_REQUESTS = "tailrace.identity", "tailrace.only_requests"

View = TypeVar("View", bound=Callable[..., Any])


def declares(action: Action | Literal["open"]) -> Callable[[View], View]:
    """Declare what a view does; "open" is for everybody."""

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
        revocation_log: RevocationLog | None = None,
        *,
        public_read: tuple[str, ...] = (),
        query_token: bool = False,
        origins: tuple[str, ...] = (),
        max_appends_per_second: int | None = None,
    ) -> None:
        """`origins` are those whose pages may send the cookie."""
        self.revocation_log = revocation_log
        self._authenticator = authenticator
        self._public = Patterns(public_read)
        self._query_token = query_token
        self._origins = {origin.lower() for origin in origins}
        self._max_appends = max_appends_per_second
        self._appends = Rate(max_appends_per_second or 1, max_appends_per_second or 1)

    @property
    def is_on(self) -> bool:
        return self._authenticator is not None

    def init_app(self, app: Flask) -> None:
        """Ask for every request. Raises TypeError if a view has not declared its action."""
        for rule in app.url_map.iter_rules():
            if not hasattr(app.view_functions[rule.endpoint], "action"):
                raise TypeError(f"the view {rule.endpoint} does not declare its action")
        if self.is_on:
            app.before_request(self._check)

    def check_ready(self, store: EventStore) -> None:
        """Raise what `EventStore.check_ready` does, for what authentication needs too."""
        if self.revocation_log is None:
            store.check_ready()
        else:
            store.check_ready(REVOCATIONS)
            self.revocation_log.wait_until_read()

    def identify(self) -> Identity | None:
        """Return whose token or key the request brings, None if it brings none.

        Raises NotAuthenticated, NotPermitted, TooMany, and StoreUnavailable until the
        revocations were read.
        """
        assert self._authenticator is not None
        found = self._credential()
        if found is None:
            return None
        credential, is_cookie = found
        if self.revocation_log is not None:
            self.revocation_log.wait_until_read()
        try:
            identity = self._authenticator.identify(credential, request.remote_addr or "")
        except NotAccepted as error:
            raise NotAuthenticated(str(error)) from None
        except TooManyFailures as error:
            raise TooMany(str(error), error.retry_after) from None
        if is_cookie and request.method not in _SAFE_METHODS:
            self.check_origin()
        return identity

    def check_origin(self) -> None:
        """Raise NotPermitted if a page of another origin has sent the request (CSRF)."""
        if not self._is_same_origin():
            raise NotPermitted("a page of another origin may not do this with the cookie")

    def check_events(self, new_events: Sequence[NewEvent]) -> None:
        """Raise NotPermitted or TooMany if the bearer may not append such events, or so many."""
        if self.is_on:
            self.event_check()(new_events)

    def event_check(self) -> Callable[[Sequence[NewEvent]], None]:
        """Return `check_events` for the bearer of this request, for use after it too."""
        identity, only_requests = current_identity(), _ONLY_REQUESTS in request.environ

        def check(new_events: Sequence[NewEvent]) -> None:
            if only_requests and any(each.category != "request" for each in new_events):
                raise NotPermitted("only events of the category request may be appended", "append")
            if self._max_appends is None or identity is None:
                return
            wait = self._appends.seconds_until(identity.subject, len(new_events))
            if wait > 0:
                raise TooMany(f"more than {self._max_appends} events a second", wait)
            self._appends.take(identity.subject, len(new_events))

        return check

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
        scheme, _, value = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() == "bearer":  # of another scheme it is for a proxy
            return value.strip(), False
        if self._query_token and (token := request.args.get("access_token")) is not None:
            return token, False
        if REALM not in request.environ.get("HTTP_COOKIE", ""):
            return None
        token = request.cookies.get(SECURE_COOKIE)
        if token is None and is_loopback(host_of(request.host)):
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
        return bool(origin) and urlsplit(origin).netloc == request.host.lower()


def current_identity() -> Identity | None:
    """Return whose request the current one is, None if nobody was asked."""
    identity: Identity | None = request.environ.get(_IDENTITY)
    return identity


def owner_of_stream(streams: OpenStreams) -> Identity | None:
    """Return whose stream is about to open. Raises TooMany if its subject may have no more."""
    owner = current_identity()
    if owner is not None and streams.has_all_of(owner):
        raise TooMany("the subject has as many streams as it may", RETRY_STREAM_SECONDS)
    return owner
