"""How the frames of a stream must look: those of events, and those of control events."""

from dataclasses import dataclass

from tests.contract.model import Entry, Run
from tests.contract.wire import Frame
from tests.contract.world import check_equal, check_same, check_timestamp

_NAME_CHARACTERS = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


@dataclass
class FrameChecks:
    """How the frames of one stream must look."""

    run: Run
    typed: bool
    json_lines: bool

    def check_event(self, frame: Frame, entry: Entry) -> None:
        check_same(frame.json, entry.json(self.run.id)), (frame, entry)
        if self.json_lines:
            return
        category, action = entry.names
        is_name = category != "gateway" and all(map(_is_name, entry.names))
        name = f"{category}.{action}" if is_name and self.typed else None
        check_equal((frame.id, frame.event), (str(entry.id), name))

    def check_control(self, frame: Frame, requested: str | None) -> None:
        """Check a control event; `requested` is the position that it names, None for any."""
        run, log = self.run, self.run.log
        document = dict(frame.json)
        check_timestamp(document.pop("timestamp"))
        requested = requested or document["data"]["requested"]
        check_equal(
            document,
            {
                **{"id": None, "run_id": run.id, "sequence": None, "source": None},
                "event": {"category": "gateway", "action": frame.control},
                "data": {
                    "requested": requested,
                    "earliest": str(log.entries[0].id) if log and log.entries else None,
                    "latest": str(log.last_id) if log else None,
                },
            },
        )
        if not self.json_lines:
            check_equal(frame.event, f"gateway.{frame.control}" if self.typed else None)
            check_equal(frame.id is not None, frame.control == "caught_up")


def _is_name(text: str | None) -> bool:
    return text is not None and 1 <= len(text) <= 64 and set(text) <= _NAME_CHARACTERS
