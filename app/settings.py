"""The settings: read once from the environment and `.env`, validated, typed, frozen."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from typing import Any

from dotenv import dotenv_values
from marshmallow import EXCLUDE, Schema, ValidationError
from marshmallow import fields as mm
from marshmallow.validate import OneOf, Range, Regexp

from .archive.storage import check_url
from .auth.grants import Patterns
from .auth.key import MIN_SECRET_BYTES
from .streaming.errors import InvalidInput
from .streaming.new_event import MAX_ACK_REPLICAS, MAX_NUMBER
from .streaming.redis.engine import make_engine

# What a bearer token may hold (RFC 6750, section 2.1). A shorter one could be guessed.
MIN_TOKEN_LENGTH = 16
_TOKEN = re.compile(rf"[A-Za-z0-9\-._~+/]{{{MIN_TOKEN_LENGTH},}}=*")


# The settings that are ports.
PORTS = ("port", "monitoring_port", "metrics_port")


class SettingsError(Exception):
    """Some variables have values that are not allowed; the message names one on each line."""


def _setting(default: Any, form: "mm.Field[Any]") -> Any:
    return field(
        default=default, metadata={"form": form}, repr=not isinstance(form, _Secrets | _Token)
    )


def _whole(minimum: int, maximum: int | None = None) -> mm.Integer:
    allowed = f"from {minimum} to {maximum}" if maximum else f"of {minimum} or more"
    invalid = f"Must be a whole number {allowed}."
    in_range = Range(minimum, maximum, error=invalid)
    return mm.Integer(validate=in_range, error_messages={"invalid": invalid})


def _one_of(*choices: str) -> mm.String:
    return mm.String(validate=OneOf(choices, error="Must be one of: {choices}."))


_ADDRESS = Regexp(
    r"^[A-Za-z0-9._:%-]+\Z",
    error="Must be an address or a name, without a port; 0.0.0.0 stands for all addresses.",
)


class _RedisUrl(mm.String):
    """A URL from which a client can be made."""

    def _deserialize(self, value: str, *args: Any, **kwargs: Any) -> str:
        try:
            make_engine(value)
        except InvalidInput as error:
            raise ValidationError(f"Must be the URL of a Redis: {error.message}.") from None
        return value


class _ArchiveUrl(mm.String):
    """A URL that names a storage."""

    def _deserialize(self, value: str, *args: Any, **kwargs: Any) -> str:
        try:
            check_url(value)
        except InvalidInput as error:
            raise ValidationError(f"Must be the URL of an archive: {error.message}.") from None
        return value


class _Flag(mm.Field[bool]):
    """`true` or `false`."""

    def _deserialize(self, value: str, *args: Any, **kwargs: Any) -> bool:
        if value.lower() not in ("true", "false"):
            raise ValidationError("Must be true or false.")
        return value.lower() == "true"


_ORIGIN = Regexp(
    r"^(\*|https?://[A-Za-z0-9.\-\[\]:]+)\Z",
    error="Must be * or origins such as https://a.example.",
)


_HOST = Regexp(
    r"^(\*|\.?[a-z0-9_\-]+(\.[a-z0-9_\-]+)*)\Z",
    error="Must be host names without ports, such as a.example or .example, or *.",
)


class _Hosts(mm.Field[tuple[str, ...]]):
    """Host names separated by commas, as a tuple, in lower case."""

    def _deserialize(self, value: str, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        hosts = (host.strip().lower() for host in value.split(","))
        return tuple(_host(host) for host in hosts if host)


def _host(text: str) -> str:
    try:
        return str(ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        return str(_HOST(text.removesuffix(".")))


class _Origins(mm.Field[tuple[str, ...]]):
    """Origins separated by commas, as a tuple."""

    def _deserialize(self, value: str, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        origins = tuple(origin.strip() for origin in value.split(",") if origin.strip())
        return tuple(_ORIGIN(origin) for origin in origins)


class _Secrets(mm.Field[tuple[str, ...]]):
    """One secret of tokens, or two while they are changed, separated by a comma."""

    def _deserialize(self, value: str, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        secrets = tuple(secret.strip() for secret in value.split(","))
        if len(secrets) > 2 or any(len(secret.encode()) < MIN_SECRET_BYTES for secret in secrets):
            raise ValidationError(
                f"Must be a secret of at least {MIN_SECRET_BYTES} bytes, or two, separated by a "
                "comma."
            )
        return secrets


class _Token(mm.String):
    """A secret that a request brings as it is."""

    def _deserialize(self, value: str, *args: Any, **kwargs: Any) -> str:
        if not _TOKEN.fullmatch(value):
            raise ValidationError(
                f"Must be {MIN_TOKEN_LENGTH} or more of A-Z a-z 0-9 - . _ ~ + / and = at the end."
            )
        return value


class _Patterns(mm.Field[tuple[str, ...]]):
    """Patterns of run ids separated by commas, as a tuple."""

    def _deserialize(self, value: str, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        patterns = tuple(pattern.strip() for pattern in value.split(",") if pattern.strip())
        try:
            Patterns(patterns)
        except ValueError:
            raise ValidationError("Must be run ids, prefixes and one *, or *.") from None
        return patterns


class _Names(mm.Field[tuple[str, ...]]):
    """Names separated by commas, as a tuple, of which there are a few."""

    def __init__(self, *names: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._names = names

    def _deserialize(self, value: str, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        given = tuple(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
        if not set(given) <= set(self._names):
            raise ValidationError(f"Must be some of: {', '.join(self._names)}.")
        return given


@dataclass(frozen=True)
class Settings:
    """What an operator may set; each is the variable of the same name in capitals.

    A time is in the unit at the end of its name; a size is in bytes. `redis_url`,
    `monitoring_port`, `metrics_port` and `metrics_token` are None if they were not given.
    """

    redis_url: str | None = _setting(None, _RedisUrl())
    host: str = _setting("127.0.0.1", mm.String(validate=_ADDRESS))
    port: int = _setting(8082, _whole(1, 65535))
    monitoring_port: int | None = _setting(None, _whole(1, 65535))
    metrics_port: int | None = _setting(None, _whole(1, 65535))
    metrics_token: str | None = _setting(None, _Token())
    web_concurrency: int = _setting(1, _whole(1, 256))
    ack_replicas: int = _setting(0, _whole(0, MAX_ACK_REPLICAS))
    stream_maxlen: int = _setting(10_000, _whole(1, MAX_NUMBER))
    stream_ttl_seconds: int = _setting(86_400, _whole(1, MAX_NUMBER))
    stream_idle_ttl_seconds: int = _setting(604_800, _whole(1, MAX_NUMBER))
    archive_url: str | None = _setting(None, _ArchiveUrl())
    archive_hold_seconds: int = _setting(604_800, _whole(0, MAX_NUMBER))
    heartbeat_seconds: int = _setting(15, _whole(1, 3600))
    retry_ms: int = _setting(3000, _whole(1, 3_600_000))
    max_streams: int = _setting(10_000, _whole(1))
    max_event_bytes: int = _setting(262_144, _whole(1))
    max_body_bytes: int = _setting(4_194_304, _whole(1))
    keepalive_seconds: int = _setting(75, _whole(1, 3600))
    drain_seconds: int = _setting(20, _whole(0, 3600))
    auth_secret: tuple[str, ...] = _setting((), _Secrets())
    auth_public_keys: str | None = _setting(None, mm.String())
    auth_jwks_url: str | None = _setting(None, mm.String())
    api_keys_file: str | None = _setting(None, mm.String())
    auth_claim: str = _setting("tailrace", mm.String())
    auth_issuer: str | None = _setting(None, mm.String())
    auth_audience: str = _setting("tailrace", mm.String())
    auth_query_token: bool = _setting(False, _Flag())
    public_read: tuple[str, ...] = _setting((), _Patterns())
    allow_anonymous: bool = _setting(False, _Flag())
    max_auth_failures: int = _setting(100, _whole(1))
    max_streams_per_subject: int | None = _setting(None, _whole(1))
    max_appends_per_subject: int | None = _setting(None, _whole(1))
    allowed_hosts: tuple[str, ...] = _setting((), _Hosts())
    cors_origins: tuple[str, ...] = _setting((), _Origins())
    compat: tuple[str, ...] = _setting((), _Names("ai-sdk", "ag-ui", "openai", "langgraph"))
    docs: bool = _setting(True, _Flag())
    ui: bool = _setting(True, _Flag())
    log_format: str = _setting("text", _one_of("text", "json"))
    log_level: str = _setting("info", _one_of("debug", "info", "warning", "error"))
    access_log: bool = _setting(False, _Flag())

    @classmethod
    def names(cls) -> set[str]:
        """Return the names of all variables."""
        return {setting.name.upper() for setting in fields(cls)}

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from `environ`, or from the environment and `.env`.

        The environment wins over `.env`. An empty variable counts as absent. Raises
        SettingsError.
        """
        given = _environment() if environ is None else environ
        forms = {setting.name.upper(): setting.metadata["form"] for setting in fields(cls)}
        present = {name: given[name] for name in forms if given.get(name)}
        try:
            values = Schema.from_dict(forms)(unknown=EXCLUDE).load(present)
        except ValidationError as error:
            lines = [f"{name}: {' '.join(why)}" for name, why in error.messages_dict.items()]
            raise SettingsError("\n".join(lines)) from None
        settings = cls(**{name.lower(): value for name, value in values.items()})
        for name in PORTS[1:]:
            if getattr(settings, name) == settings.port:
                raise SettingsError(f"{name.upper()}: Must be another one than PORT.")
        if settings.has_authentication and "*" in settings.cors_origins:
            raise SettingsError("CORS_ORIGINS: Must name the origins, since there are cookies.")
        return settings

    @property
    def has_authentication(self) -> bool:
        """Whether requests need a token or a key."""
        sources = self.auth_public_keys, self.auth_jwks_url, self.api_keys_file
        return bool(self.auth_secret) or any(sources)


def _environment() -> dict[str, str]:
    try:
        from_file = {name: value for name, value in dotenv_values(".env").items() if value}
    except UnicodeDecodeError:
        raise SettingsError(".env: must be in UTF-8") from None
    return from_file | {name: value for name, value in os.environ.items() if value}
