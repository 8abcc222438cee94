"""Plain values as bytes: what is written is read, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trapgate.lab.snapshots.plain import DEEPEST, Malformed, NotPlain, decode, encode

_KEYS = st.one_of(st.integers(), st.text(), st.binary())
_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.binary()),
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(_KEYS, inner)
    ),
    max_leaves=30,
)  # fmt: skip


@given(_VALUES)
@settings(max_examples=100)
def test_round_trip(value: object) -> None:
    read = decode(encode(value))
    assert read == value
    assert repr(read) == repr(value)  # 1 and True are equal


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_garbage_is_refused_or_a_value(data: bytes) -> None:
    try:
        value = decode(data)
    except Malformed:
        return
    assert decode(encode(value)) == value


@given(_VALUES, st.data())
@settings(max_examples=60)
def test_no_part_of_a_value_is_one(value: object, data: st.DataObject) -> None:
    whole = encode(value)
    with pytest.raises(Malformed):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(Malformed):
        decode(whole + b"N")


def test_bytearrays_are_bytes() -> None:
    assert decode(encode({"a": bytearray(b"xyz")})) == {"a": b"xyz"}


@pytest.mark.parametrize("value", [1.5, {1}, object(), [1, {"a": (2, 3.0)}], range(3)])
def test_other_values_are_not_written(value: object) -> None:
    with pytest.raises(NotPlain, match="wanted a plain value in a snapshot, got a "):
        encode(value)


def test_values_inside_each_other_have_an_end() -> None:
    with pytest.raises(Malformed):
        decode(b"L\x01" * (DEEPEST + 2) + b"N")
