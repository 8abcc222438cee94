"""Segment limits, rights and loads against the naive model, in 32-bit protected mode."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trapgate.arch.registers import SEGMENT_NAMES, SS

from . import naive_segments
from .code32 import TABLE_AT, Code32
from .naive_segments import Descriptor

SETTINGS = settings(max_examples=300, derandomize=True, database=None, deadline=None,
                    suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
#: Segment override prefixes by register number (APM vol. 3, table 1-4).
_OVERRIDES = (0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65)
#: mov (al, ax, eax), movq and movups, [ebx]: (size, is a write) to opcode bytes.
_ACCESSES = {
    (1, False): "8a03", (2, False): "668b03", (4, False): "8b03", (8, False): "f30f7e03", (16, False): "0f1003",
    (1, True): "8803", (2, True): "668903", (4, True): "8903", (8, True): "660fd603", (16, True): "0f1103",
}  # fmt: skip
_SELECTORS = 16


@pytest.fixture(scope="module")
def code() -> Code32:
    return Code32()


def _attributes(descriptor: Descriptor) -> int:
    value = int.from_bytes(descriptor.encode(), "little")
    return value >> 40 & 0xFF | (value >> 52 & 0xF) << 8


limits = st.one_of(st.sampled_from([0, 1, 3, 7, 15, 16, 0xFFF, 0x1000, 0xFFFF, 0xF_FFFF]), st.integers(0, 0xF_FFFF))
descriptors = st.builds(
    Descriptor,
    base=st.integers(0x1_0000, 0x10_0000),
    limit=limits,
    type=st.integers(0, 15),
    dpl=st.integers(0, 3),
    present=st.booleans() | st.just(True),
    user=st.booleans() | st.just(True),
    granularity=st.booleans(),
    default_big=st.booleans(),
)


@SETTINGS
@given(
    descriptor=descriptors,
    number=st.sampled_from([0, 2, 3, 4, 5]),
    access=st.sampled_from(sorted(_ACCESSES)),
    edge=st.sampled_from(["limit", "zero", "top", "64k"]),
    distance=st.integers(-20, 20),
)
def test_accesses(
    code: Code32, descriptor: Descriptor, number: int, access: tuple[int, bool], edge: str, distance: int
) -> None:
    descriptor = dataclasses.replace(descriptor, user=True, present=True)
    if number == SS:
        # Only writable data segments can be in SS.
        descriptor = dataclasses.replace(descriptor, type=descriptor.type & 4 | 3)
    size, write = access
    limit = descriptor.scaled_limit()
    offset = {"limit": limit, "zero": 20, "top": 0xFFFF_FFC0, "64k": 0xFFFF}[edge] + distance
    offset = max(0, min(offset, 0xFFFF_FFFF - size))
    code.prepare()
    code.processor.segments[number].load(0x10, descriptor.base, limit, _attributes(descriptor))
    expected = naive_segments.access_fault(descriptor, SEGMENT_NAMES[number], offset, size, write)
    got = code.run(bytes([_OVERRIDES[number]]) + bytes.fromhex(_ACCESSES[access]), ebx=offset)
    assert got == expected, f"{descriptor}, {size} bytes at offset {offset:#x} of limit {limit:#x}"


@SETTINGS
@given(
    table=st.lists(descriptors, min_size=_SELECTORS, max_size=_SELECTORS),
    number=st.sampled_from([0, 2, 3, 4, 5]),
    index=st.integers(0, _SELECTORS + 1),
    rpl=st.integers(0, 3),
    local=st.sampled_from([False, False, False, True]),
    cpl=st.integers(0, 3),
    fitting=st.booleans(),
)
def test_loads(
    code: Code32, table: list[Descriptor], number: int, index: int, rpl: int, local: bool, cpl: int, fitting: bool
) -> None:
    if fitting:
        # What SS wants, except perhaps for the RPL.
        table = [dataclasses.replace(descriptor, dpl=cpl, type=3, user=True) for descriptor in table]
    code.prepare(cpl)
    processor = code.processor
    code.memory.write(TABLE_AT, b"".join(descriptor.encode() for descriptor in table))
    processor.gdtr_base, processor.gdtr_limit = TABLE_AT, 8 * _SELECTORS - 1
    processor.ldtr.selector, processor.ldtr.attributes = 0, 0
    selector = index << 3 | local << 2 | rpl
    descriptor = table[index] if index < _SELECTORS and not local else None
    expected = naive_segments.load_fault(SEGMENT_NAMES[number], selector, descriptor, cpl)
    # mov sreg, ax
    got = code.run(bytes([0x8E, 0xC0 | number << 3]), eax=selector)
    assert got == expected, f"{SEGMENT_NAMES[number]} = {selector:#x} ({descriptor}) at CPL {cpl}"
    if expected is None:
        segment = processor.segments[number]
        assert segment.selector == selector
        if descriptor is not None and selector & 0xFFFC:
            assert (segment.base, segment.limit) == (descriptor.base, descriptor.scaled_limit())
            # 4.7.2: loading sets the accessed bit.
            assert code.memory.read_u8(TABLE_AT + 8 * index + 5) & 1
