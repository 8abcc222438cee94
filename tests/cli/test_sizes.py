"""QEMU's memory syntax, and counts."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trapgate.cli.errors import InvalidCount, InvalidMemory
from trapgate.cli.sizes import parse_count, parse_memory

MB = 1 << 20


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256M", 256 * MB),
        ("256m", 256 * MB),
        ("512", 512 * MB),
        ("1G", 1024 * MB),
        ("0.5G", 512 * MB),
        ("1.5", 3 * MB // 2),
        ("65536K", 64 * MB),
        ("1048576b", MB),
        ("1T", 1 << 40),
    ],
)
def test_memory(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    "text", ["", "M", "-1", "+1", "1 G", "1GB", "0", "0.0G", "1e3", "0x10", "0.3b", ".5G", "٣", "9" * 30, "1G\n"]
)
def test_bad_memory(text: str) -> None:
    with pytest.raises(InvalidMemory, match="wanted a memory size such as 256M"):
        parse_memory(text)


@given(st.integers(1, 1 << 40), st.sampled_from("bkmgtBKMGT"))
def test_any_number_with_any_suffix(number: int, suffix: str) -> None:
    assert parse_memory(f"{number}{suffix}") == number << {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40}[suffix.lower()]


@given(st.text(max_size=30))
def test_no_text_gives_another_error(text: str) -> None:
    with suppress(InvalidMemory):
        assert parse_memory(text) > 0
    with suppress(InvalidCount):
        assert parse_count(text) > 0


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("1000000", 10**6), ("1_000_000", 10**6)])
def test_count(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "1e9", "_1", "many", "9" * 30])
def test_bad_count(text: str) -> None:
    with pytest.raises(InvalidCount, match="wanted a whole number of instructions above 0"):
        parse_count(text)
