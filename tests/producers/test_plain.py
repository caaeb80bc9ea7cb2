"""Values of programs as JSON: nothing raises, and everything can be stored."""

from hypothesis import given
from hypothesis import strategies as st

from app.producers.plain import MAX_ITEMS, cut, plain, text_of_error
from app.streaming.new_event import NewEvent

values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(
        inner
    ),
    max_leaves=10,
)  # fmt: skip


class Model:
    """As those of pydantic."""

    def __init__(self, value: object):
        self._value = value

    def model_dump(self, mode: str) -> object:
        if isinstance(self._value, Exception):
            raise self._value
        return self._value

    def __repr__(self) -> str:
        return "Model()"


@given(values)
def test_every_value_can_be_stored(value):
    NewEvent.of("a", "b", plain(value))
    NewEvent.of("a", "b", cut(plain(value), 3))


def test_json_stays_as_it_is():
    value = {"a": [1, 2.5, None, True, "x"], "b": {"c": {}}}
    assert plain(value) == value


def test_models_are_objects_if_they_can_be_dumped():
    assert plain([Model({"a": float("inf")})]) == [{"a": "inf"}]
    assert plain(Model(ValueError())) == "Model()"


def test_what_has_no_end_ends():
    endless: list[object] = []
    endless.append(endless)
    NewEvent.of("a", "b", plain(endless))
    loop = Model(None)
    loop._value = loop
    assert plain(loop) == "Model()"
    assert len(plain([0] * (MAX_ITEMS + 1))) == MAX_ITEMS


def test_long_texts_arrays_and_objects_are_cut():
    assert cut("abcdef", 4) == "abcd … 2 characters cut"
    assert cut([[1, 2, 3]], 2) == [[1, 2]]
    assert cut({"aaaa": 1, "b": 2, "c": 3}, 2) == {"aa": 1, "b": 2}


def test_an_error_without_a_text_has_its_name():
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert text_of_error(ValueError()) == "ValueError"
    assert text_of_error(Odd()) == "Odd: <unprintable>"
