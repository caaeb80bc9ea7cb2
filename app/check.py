"""The command `check`: are the settings right, and what is the Redis that they name?"""

import dataclasses
import json
import socket
import sys
from importlib import import_module
from typing import Any

from .auth.revocation_log import REVOCATIONS
from .capacity import Capacity, open_files
from .launcher.installed_redis import OwnRedisError
from .server.addresses import STANDS_OPEN, is_loopback
from .settings import Settings, SettingsError
from .streaming.errors import InvalidInput, StoreUnavailable, UnsupportedServer
from .streaming.event_store import EventStore
from .streaming.redis.redis_url import default_url, without_password

# What a start refuses; the message says why.
REFUSALS = (SettingsError, InvalidInput, OwnRedisError)


def check() -> int:
    """Print the settings as JSON, with the number of connections of a worker.

    Returns 2 if Redis can never serve. Raises one of REFUSALS if a setting is wrong.
    """
    settings = Settings.load()
    if settings.has_authentication:
        import_module(".authentication", __package__).check_keys(settings)
    _, address = resolve(settings.host, settings.port)
    if not (settings.has_authentication or settings.allow_anonymous or is_loopback(address[0])):
        raise SettingsError(f"ALLOW_ANONYMOUS: {settings.host} {STANDS_OPEN}")
    url = settings.redis_url or default_url()
    try:
        store = EventStore(url, ack_replicas=settings.ack_replicas)
        store.check_server()
        store.check_ready(*[REVOCATIONS] if settings.has_authentication else [])
        for shard in store.shards():
            if shard.detail is not None:
                complain(f"warning: {shard.node} with the slots {shard.slots}: {shard.detail}")
        for node, reason in store.silent_nodes().items():
            complain(f"warning: REDIS_URL names {node}: {reason}")
        for warning in store.warnings():
            complain(f"warning: {warning.detail}")
    except UnsupportedServer as error:
        complain(f"{without_password(url)}: {error}")
        return 2
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        # redis-py looks at some options of the URL only when it connects.
        raise SettingsError(f"REDIS_URL: an option cannot be used: {error}") from None
    except StoreUnavailable as error:
        complain(f"cannot reach Redis at {without_password(url)}, and will go on trying: {error}")
    capacity = Capacity.of(settings.max_streams, open_files(hard=True))
    shown = dataclasses.replace(
        settings,
        redis_url=settings.redis_url and without_password(settings.redis_url),
        auth_secret=("hidden",) * len(settings.auth_secret),
        metrics_token=settings.metrics_token and "hidden",
        # Its query may hold a key for the issuer.
        auth_jwks_url=settings.auth_jwks_url and settings.auth_jwks_url.partition("?")[0],
    )
    more = {
        "has_authentication": settings.has_authentication,
        "worker_connections": sum(capacity),
    }
    print(json.dumps({**dataclasses.asdict(shown), **more}))
    return 0


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Return the family and the address to listen on. Raises SettingsError."""
    try:
        [(family, _, _, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise SettingsError(
            f"HOST: {host} is no address of this machine ({error}); "
            "0.0.0.0 stands for all its addresses"
        ) from None
    return family, address


def complain(message: str) -> None:
    """Print a message of one or more lines to standard error."""
    for line in message.splitlines():
        print(f"tailrace: {line}", file=sys.stderr, flush=True)
