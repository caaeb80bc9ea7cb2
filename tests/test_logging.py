"""The logging handler: what becomes of a record, and that a program never notices it."""

import json
import logging
import logging.config
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import logging as module
from app.async_client import AsyncClient
from app.client import Client
from app.logging import RunHandler
from app.streaming.appender import Appender
from app.streaming.event_queue import MAX_WAITING_EVENTS
from tests.client.fake_gateway import FakeGateway, problem, stored
from tests.streaming.fake_log import Log, unavailable


class Store:
    """Makes appenders that append to logs in memory."""

    def __init__(self, *logs: Log, **options: object):
        self.logs = [*logs]
        self.appenders: list[Appender] = []
        self._options = options

    def appender(self, run_id: int | str) -> Appender:
        log = self.logs[min(len(self.appenders), len(self.logs) - 1)]
        self.appenders.append(Appender(log, name=f"run {run_id}", retry_seconds=0, **self._options))
        return self.appenders[-1]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def logger():
    """A logger of this test alone, without handlers at its end."""
    logger = logging.Logger("shop.orders", level=1)
    yield logger
    for handler in logger.handlers:
        handler.close()


def sent(log: Log) -> list[tuple[str, str, dict]]:
    return [
        (event.category, event.action, json.loads(event.data_json))
        for batch in log.new_events
        for event in batch
    ]


def record_all(logger: logging.Logger, log: Log, write, **options) -> list[dict]:
    """Return the data of what a function logs."""
    handler = RunHandler("1", Store(log), **options)
    logger.addHandler(handler)
    write(logger)
    handler.flush()
    return [data for _, _, data in sent(log)]


def test_a_record_becomes_an_event(logger, log):
    handler = RunHandler("1", Store(log))
    logger.addHandler(handler)
    logger.warning("paid %d of %s", 3, "ten", extra={"order": 7, "tags": ["a"]})
    handler.flush()
    [(category, action, data)] = sent(log)
    assert (category, action) == ("log", "warning")
    assert data["message"] == "paid 3 of ten"
    assert (data["logger"], data["level"], data["module"]) == (
        "shop.orders", "WARNING", "test_logging",
    )  # fmt: skip
    assert data["extra"] == {"order": 7, "tags": ["a"]}
    assert isinstance(data["line"], int)
    assert data["time"].endswith("Z")


def test_an_exception_is_sent_with_its_traceback(logger, log):
    def write(logger):
        try:
            raise KeyError("order")
        except KeyError:
            logger.exception("failed", stack_info=True)

    [data] = record_all(logger, log, write)
    assert data["exception"].startswith("Traceback (most recent call last)")
    assert data["exception"].endswith("KeyError: 'order'")
    assert "record_all" in data["stack"]


@pytest.mark.parametrize(
    ("level", "name", "action"),
    [
        (logging.DEBUG, None, "debug"),
        (15, None, "level_15"),
        (16, "MY LEVEL", "my_level"),
        (17, "é", "level_17"),
        (18, "x" * 100, "x" * 64),
        (19, "", "level_19"),
    ],
)
def test_the_name_of_a_level_becomes_an_action(logger, log, monkeypatch, level, name, action):
    if name is not None:
        monkeypatch.setitem(logging._levelToName, level, name)
    handler = RunHandler("1", Store(log), category="app-log")
    logger.addHandler(handler)
    logger.log(level, "x")
    handler.flush()
    assert [each[:2] for each in sent(log)] == [("app-log", action)]


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("%d apples", "ten"), "%d apples ('ten',)"),
        (("%s", Unprintable()), "%s <unprintable tuple>"),
        (({"a": 1},), "{'a': 1}"),
        ((None,), "None"),
        ((Unprintable(),), "<unprintable Unprintable>"),
        (("half \ud83d of a pair",), "half \ufffd of a pair"),
        (("nul \0 and \u2028",), "nul \0 and \u2028"),
    ],
)
def test_odd_messages_are_sent_as_well_as_can_be(logger, log, arguments, message):
    [data] = record_all(logger, log, lambda logger: logger.info(*arguments))
    assert data["message"] == message


def test_extras_that_json_cannot_hold_are_sent_as_text(logger, log):
    extra = {
        "set": {1}, "nan": float("nan"), "huge": 2**70, "bad": Unprintable(), "fine": None,
        "keys": {(1, 2): 3}, "half": "\ud83d",
    }  # fmt: skip
    [data] = record_all(logger, log, lambda logger: logger.info("x", extra=extra))
    assert data["extra"] == {
        "set": "{1}", "nan": "nan", "huge": str(2**70), "bad": "<unprintable Unprintable>",
        "fine": None, "keys": "{(1, 2): 3}", "half": "\ufffd",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["x" * 400_000, "\0" * 400_000, "é" * 400_000])
def test_a_huge_record_is_cut_to_the_size_of_an_event(logger, log, text):
    def write(logger):
        logger.info(text, extra={"more": text, "small": 1})

    [data] = record_all(logger, log, write)
    assert data["message"].startswith(text[:100])
    assert "characters cut" in data["message"]


odd = st.recursive(
    st.none() | st.floats() | st.integers() | st.text() | st.binary() | st.builds(object),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.sets(
        st.text()
    ),
    max_leaves=5,
)  # fmt: skip


@given(
    message=odd | st.sampled_from(["%s", "%d %(x)s", "%", "{}"]),
    arguments=st.lists(odd, max_size=2),
    extra=st.dictionaries(st.text(), odd, max_size=3),
    name=st.text(),
    level=st.integers(1, 60),
)
@settings(max_examples=300)
def test_every_record_becomes_an_event(message, arguments, extra, name, level):
    log, errors = Log(), []
    handler = RunHandler("1", Store(log))
    handler.handleError = errors.append
    record = logging.LogRecord(name, level, __file__, 1, message, tuple(arguments), None)
    known = vars(record).keys()
    vars(record).update({key: value for key, value in extra.items() if key not in known})
    handler.handle(record)
    handler.close()
    assert (errors, handler.dropped) == ([], 0)
    assert len(sent(log)) == (not name.startswith("tailrace.") and name != "tailrace")


def test_with_a_formatter_its_text_is_the_message(logger, log):
    handler = RunHandler("1", Store(log))
    handler.setFormatter(logging.Formatter("%(name)s says %(message)s"))
    logger.addHandler(handler)
    logger.info("hi")
    handler.flush()
    assert sent(log)[0][2]["message"] == "shop.orders says hi"


def test_records_of_the_client_itself_are_not_sent(log):
    """They would make an endless loop."""
    root = logging.Logger("root", level=1)
    root.addHandler(handler := RunHandler("1", Store(log)))
    for name in ("tailrace", "tailrace.client"):
        root.handle(logging.LogRecord(name, logging.INFO, __file__, 1, "x", (), None))
    handler.close()
    assert sent(log) == []


def test_sending_a_record_logs_nothing_into_the_run(caplog):
    """urllib3 logs each request, in the thread that sends."""
    with FakeGateway([stored]) as gateway:
        handler = RunHandler("1", url=gateway.url)
        root = logging.getLogger()
        caplog.set_level(logging.DEBUG)
        root.addHandler(handler)
        try:
            root.info("one")
            handler.flush()
            handler.flush()
        finally:
            root.removeHandler(handler)
            handler.close()
    assert any(record.name.startswith("urllib3") for record in caplog.records)
    assert len(gateway.requests) == 1


def test_a_full_queue_drops_records_and_the_next_one_says_how_many(logger):
    log = Log()
    log.open.clear()
    handler = RunHandler("1", Store(log))
    logger.addHandler(handler)
    for number in range(MAX_WAITING_EVENTS + 1500):
        logger.info("%d", number)
    assert handler.dropped >= 500
    log.open.set()
    handler.flush()
    logger.info("again")
    handler.flush()
    data = sent(log)[-1][2]
    assert data["message"] == "again"
    assert data["dropped"] == handler.dropped


def test_a_program_does_not_notice_a_gateway_that_is_away(logger, capsys, monkeypatch):
    monkeypatch.setattr(module, "REOPEN_SECONDS", 0)
    away, back = Log(unavailable()), Log()
    handler = RunHandler("1", Store(away, back))
    logger.addHandler(handler)
    logger.info("lost")
    handler.flush()
    assert "1 event of run 1 is not stored: StoreUnavailable: away" in capsys.readouterr().err
    logger.info("found")
    handler.flush()
    assert [data["message"] for _, _, data in sent(back)] == ["found"]
    assert (sent(back)[0][2]["dropped"], handler.dropped) == (1, 1)


def test_after_an_error_the_handler_waits_before_it_tries_again(logger, capsys):
    store = Store(Log(unavailable()))
    handler = RunHandler("1", store)
    logger.addHandler(handler)
    for _ in range(3):
        logger.info("lost")
        handler.flush()
    assert len(store.appenders) == 1
    assert handler.dropped == 3


def test_a_run_that_has_ended_does_not_disturb_the_program(logger, capsys):
    with FakeGateway([problem(409, ended=True)]) as gateway:
        handler = RunHandler("1", Client(gateway.url))
        logger.addHandler(handler)
        logger.info("late")
        handler.close()
    assert "RunEnded" in capsys.readouterr().err


def test_after_close_records_are_dropped(logger, log):
    handler = RunHandler("1", Store(log))
    logger.addHandler(handler)
    handler.close()
    logger.info("late")
    handler.close()
    assert sent(log) == []


def test_a_dict_config_makes_a_handler():
    with FakeGateway([stored]) as gateway:
        configuration = {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {
                "run": {
                    "class": "app.logging.RunHandler",
                    "run_id": "1",
                    "url": gateway.url,
                    "token": "secret-token",
                    "level": "INFO",
                }
            },
            "loggers": {"shop": {"handlers": ["run"], "level": "DEBUG"}},
        }
        logging.config.dictConfig(configuration)
        shop = logging.getLogger("shop")
        try:
            shop.debug("no")
            shop.info("yes")
        finally:
            [handler] = shop.handlers
            shop.removeHandler(handler)
            handler.close()
    [request] = gateway.requests
    assert json.loads(request.body)["data"]["message"] == "yes"
    assert request.headers["authorization"] == "Bearer secret-token"
    assert "secret" not in repr(handler) + repr(vars(handler))


@pytest.mark.parametrize("options", [{}, {"url": "http://a", "store": Store(Log())}])
def test_a_handler_has_one_place_to_send_to(options):
    with pytest.raises(ValueError, match="url"):
        RunHandler("1", **options)


def test_a_client_for_asyncio_is_refused():
    """Its appender belongs to a loop, and records come from anywhere."""
    with pytest.raises(ValueError, match="store"):
        RunHandler("1", AsyncClient("http://127.0.0.1:1"))


@pytest.mark.parametrize("options", [{"category": "gateway"}, {"category": "a b"}])
def test_a_category_that_cannot_be_is_refused_at_once(options):
    with pytest.raises(ValueError, match="event_category"):
        RunHandler("1", Store(Log()), **options)


def test_many_threads_log_into_one_run(logger, log):
    handler = RunHandler("1", Store(log))
    logger.addHandler(handler)

    def write(name: int) -> None:
        for number in range(200):
            logger.info("%d %d", name, number)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    handler.flush()
    messages = [data["message"] for _, _, data in sent(log)]
    for name in range(8):
        mine = [each for each in messages if each.startswith(f"{name} ")]
        assert mine == [f"{name} {number}" for number in range(200)]
    assert handler.dropped == 0


def test_records_go_to_the_event_store(store, run_id, logger):
    handler = RunHandler(run_id, store)
    logger.addHandler(handler)
    logger.error("x")
    handler.flush()
    [event] = store.get_events(run_id)
    assert (event.name, event.data["message"]) == ("log.error", "x")


def test_a_forked_child_logs_into_the_run_itself(store, run_id, logger):
    handler = RunHandler(run_id, store)
    logger.addHandler(handler)
    logger.info("before")
    handler.flush()
    child = os.fork()
    if child == 0:
        try:
            logger.info("child")
            handler.flush()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    logger.info("parent")
    handler.flush()
    assert [event.data["message"] for event in store.get_events(run_id)] == [
        "before", "child", "parent",
    ]  # fmt: skip
