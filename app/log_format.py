"""How the gateway and the archiver log: to standard error, as text or as JSON.

gunicorn's configuration reads it before the workers fork, so it imports nothing.
"""

from typing import Any


def logging_configuration(log_format: str, level: str) -> dict[str, Any]:
    """Return the dictionary for `logging.config`, for LOG_FORMAT and LOG_LEVEL."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "text": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "format": "%(levelname)s %(name)s %(message)s",
                "rename_fields": {"levelname": "level", "name": "logger"},
                "timestamp": "time",  # as RFC 3339 says
            },
        },
        "handlers": {
            "console": {
                "class": "logging.StreamHandler",
                "formatter": log_format,
                "stream": "ext://sys.stderr",
            }
        },
        "root": {"level": level.upper(), "handlers": ["console"]},
    }
