"""Flask without the work per request for features that no view here uses."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import Map, MapAdapter, Rule

# Producers post to the same paths again and again, so their views are remembered.
MAX_REMEMBERED_PATHS = 4096
# The view of a longer path only refuses it.
MAX_REMEMBERED_LENGTH = 256

_Match = tuple[Rule, Mapping[str, Any]]


class LeanFlask(Flask):
    """Flask without sessions, coroutines as views, or hosts and subdomains that choose a view.

    `make bench` shows the effect: an append spends a third less in Flask.
    """

    session_interface: SessionInterface

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.session_interface = _NoSessions()
        self._remembered = lru_cache(MAX_REMEMBERED_PATHS)(self._match)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        if request is None:
            return None
        return _RememberingAdapter(self.url_map, request.path, request.method, self._remembered)

    def _match(self, path: str, method: str) -> _Match:
        return _Adapter(self.url_map, path, method).match(return_rule=True)


class _NoSessions(SessionInterface):
    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self._none


class _Adapter(MapAdapter):
    def __init__(self, url_map: Map, path: str, method: str) -> None:
        super().__init__(url_map, "", "/", "", "http", path, method)


class _RememberingAdapter(_Adapter):
    """Looks up a path once, and remembers its view."""

    def __init__(
        self, url_map: Map, path: str, method: str, remembered: Callable[[str, str], _Match]
    ) -> None:
        super().__init__(url_map, path, method)
        self._remembered = remembered

    def match(self, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs != {"return_rule": True} or len(self.path_info) > MAX_REMEMBERED_LENGTH:
            return super().match(*args, **kwargs)
        return self._remembered(self.path_info, self.default_method)
