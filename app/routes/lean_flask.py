"""Flask without what it does at each request for features that no view of ours uses."""

from functools import lru_cache
from typing import Any

from flask import Flask, Request
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import Map, MapAdapter, Rule

# Producers post to one path again and again: so many are remembered with their view.
REMEMBERED_PATHS = 4096

# A longer one has a view only to refuse it.
MAX_REMEMBERED_LENGTH = 256


class LeanFlask(Flask):
    """No sessions, no coroutines as views, no hosts or subdomains that choose one.

    `make bench` shows what it is for: an append's share of Flask is a third less.
    """

    session_interface: SessionInterface

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.session_interface = _NoSessions()
        self._matched = lru_cache(REMEMBERED_PATHS)(self._match)

    def ensure_sync(self, func: Any) -> Any:
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        if request is None:
            return None
        return _Adapter(self.url_map, request.path, request.method, self._matched)

    def _match(self, path: str, method: str) -> tuple[Rule, dict[str, Any]]:
        return _adapter(self.url_map, path, method).match(return_rule=True)


class _NoSessions(SessionInterface):
    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self._none


def _adapter(url_map: Map, path: str, method: str) -> MapAdapter:
    return MapAdapter(url_map, "", "/", "", "http", path, method)


class _Adapter(MapAdapter):
    """Matches what matched before without looking again."""

    def __init__(self, url_map: Map, path: str, method: str, matched: Any):
        super().__init__(url_map, "", "/", "", "http", path, method)
        self._matched = matched

    def match(self, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs != {"return_rule": True} or len(self.path_info) > MAX_REMEMBERED_LENGTH:
            return super().match(*args, **kwargs)
        return self._matched(self.path_info, self.default_method)
