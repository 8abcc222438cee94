"""Anything a guest and a network can do to the 82540EM: no exception, values in range, nothing outside memory.

`TRAPGATE_DEVICE_FUZZ=N` sets the number of examples; 1000 of them are 100,000 operations.
"""

from __future__ import annotations

import os
import struct

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trapgate.devices.e1000 import registers as reg

from .nic_world import BUFFERS, MAC, MICROSECOND, OTHER, RX_RING, TX_DATA, TX_RING, Nic

Step = tuple[object, ...]
EXAMPLES = int(os.environ.get("TRAPGATE_DEVICE_FUZZ", "15"))
LONG = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
FEWER = settings(LONG, max_examples=max(EXAMPLES // 2, 10))
LENGTHS = {"min_size": 60, "max_size": 150}

REGISTERS = st.one_of(
    st.sampled_from(
        [reg.CTRL, reg.STATUS, reg.EECD, reg.EERD, reg.MDIC, reg.ICR, reg.ICS, reg.IMS, reg.IMC, *reg.PLAIN]
    ),
    st.sampled_from(
        [reg.RCTL, reg.TCTL, reg.RDH, reg.RDT, reg.TDH, reg.TDT, reg.RDLEN, reg.TDLEN, reg.RDBAL, reg.TDBAL, reg.RDBAH,
         reg.ITR, reg.TIDV, reg.RDTR, reg.CTRL, reg.PBA, reg.RXCSUM, reg.VET]
    ),
    st.integers(0, 0x1FFFF).map(lambda offset: offset & ~3),
)  # fmt: skip
WORDS = st.one_of(
    st.integers(0, 0xFFFF_FFFF),
    st.integers(0, 31).map(lambda bit: 1 << bit),
    st.integers(0, 64),
    st.sampled_from([0, 0xFFFF_FFFF, RX_RING, TX_RING, 0x3F_FFF0, 0x40_0000, 256, reg.CTRL_RST, 0x0400_8022]),
)
ADDRESSES = st.one_of(
    st.integers(0, 0x3F_FFFF),
    st.sampled_from([0, TX_DATA, BUFFERS, RX_RING, TX_RING, 0x3F_FFFF, 0x40_0000, 0xFEE0_0000, 1 << 63, (1 << 64) - 1]),
)
FRAMES = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda destination, kind, length, fill: destination + OTHER + kind + bytes([fill]) * length,
        st.sampled_from([MAC, OTHER, b"\xff" * 6, bytes.fromhex("01005e000001")]),
        st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x81\x00", b"\x88\xb5"]),
        st.sampled_from([0, 46, 100, 1500, 1600, 9000, 9100]),
        st.sampled_from([0, 0x45, 0x60, 0xFF]),
    ),
)
DESCRIPTORS = st.lists(
    st.one_of(
        st.tuples(ADDRESSES, st.integers(0, (1 << 64) - 1)),
        # Legacy, data and context descriptors of a right form, with anything in the other fields.
        st.builds(
            lambda address, length, command, rest: (address, length | command << 24 | rest << 32),
            ADDRESSES, st.integers(0, 2000), st.integers(0, 0x1F), st.integers(0, 0xFFFF_FFFF),
        ),
        st.builds(
            lambda address, length, kind, command, rest: (
                address, length | kind << 20 | (command | 0x20) << 24 | rest << 32
            ),
            st.one_of(ADDRESSES, st.integers(0, (1 << 64) - 1)), st.integers(0, 0xF_FFFF),
            st.sampled_from([0, 1, 1, 2]), st.integers(0, 0xFF), st.integers(0, 0xFFFF_FFFF),
        ),
    ),
    min_size=1, max_size=6,
)  # fmt: skip
STEPS = st.one_of(
    st.tuples(st.just("write"), REGISTERS, WORDS),
    st.tuples(st.just("write"), REGISTERS, WORDS),
    st.tuples(st.just("read"), REGISTERS),
    st.tuples(st.just("access"), st.integers(0, 0x1FFFF), st.sampled_from([1, 2, 4, 8]), WORDS),
    st.tuples(st.just("ports"), st.integers(0, 31), st.sampled_from([1, 2, 4]), WORDS),
    st.tuples(st.just("config"), st.integers(0, 0x3F).map(lambda place: place * 4), WORDS),
    st.tuples(st.just("start")),
    st.tuples(st.just("frame"), FRAMES),
    st.tuples(st.just("frame"), FRAMES),
    st.tuples(st.just("transmit"), DESCRIPTORS),
    st.tuples(st.just("transmit"), DESCRIPTORS),
    st.tuples(st.just("buffers"), st.lists(ADDRESSES, min_size=1, max_size=8), st.integers(0, 20)),
    st.tuples(st.just("mdic"), st.integers(0, 3), st.integers(0, 31), st.integers(0, 0xFFFF)),
    st.tuples(st.just("wait"), st.integers(0, 30_000 * MICROSECOND)),
    st.tuples(st.just("wait"), st.integers(0, 100 * MICROSECOND)),
)


def perform(nic: Nic, step: Step) -> object:
    match step:
        case ("write", int(offset), int(value)):
            nic.write(offset, value)
        case ("read", int(offset)):
            return nic.read(offset)
        case ("access", int(offset), int(width), int(value)):
            nic.bus.write_memory(nic.base + offset, width, value & (1 << 8 * width) - 1)
            return nic.bus.read_memory(nic.base + offset, width)
        case ("ports", int(offset), int(width), int(value)):
            nic.bus.write_port(nic.ports + offset, width, value & (1 << 8 * width) - 1)
            return nic.bus.read_port(nic.ports + offset, width)
        case ("config", int(offset), int(value)):
            if not 0x10 <= offset < 0x28:  # the windows stay where they are
                nic.set_config(offset, value | 7 if offset == 4 else value)
        case ("start",):
            nic.set_config(4, 7)
            for place, value in (
                (reg.CTRL, reg.CTRL_SLU), (reg.RCTL, 0x8022), (reg.TCTL, 0xA), (reg.RDBAL, RX_RING), (reg.RDBAH, 0),
                (reg.RDLEN, 256), (reg.TDBAL, TX_RING), (reg.TDBAH, 0), (reg.TDLEN, 256), (reg.RDH, 0), (reg.RDT, 15),
                (reg.TDH, 0), (reg.TDT, 0),
            ):  # fmt: skip
                nic.write(place, value)
            nic.tx_tail = 0
        case ("frame", bytes(data)):
            nic.card.receive(data)
            return nic.card.ready
        case ("transmit", list(descriptors)):
            nic.descriptors(descriptors)
        case ("buffers", list(addresses), int(tail)):
            for number, address in enumerate(addresses):
                nic.memory.write(RX_RING + 16 * number, struct.pack("<QQ", address, 0))
            nic.write(reg.RDT, tail)
        case ("mdic", int(operation), int(number), int(value)):
            nic.write(reg.MDIC, operation << 26 | 1 << 21 | number << 16 | value)
            return nic.read(reg.MDIC)
        case ("wait", int(cycles)):
            nic.wait(cycles)
    return None


def perform_all(steps: list[Step]) -> Nic:
    nic = Nic()
    nic.start()
    for step in steps:
        result = perform(nic, step)
        assert result is None or 0 <= int(str(int(result))) < 1 << 64  # type: ignore[call-overload]
        receiver = nic.card.receiver
        waiting = sum(len(frame) for frame in receiver.waiting)
        assert receiver.held == waiting + sum(len(frame) for _, frame in receiver.coming)  # type: ignore[arg-type]
        assert all(60 <= len(frame) <= 9018 or len(frame) >= 14 for frame in nic.cable.frames)
    return nic


@LONG
@given(st.lists(STEPS, **LENGTHS))
def test_anything(steps: list[Step]) -> None:
    perform_all(steps)


ANY = st.lists(STEPS, min_size=20, max_size=60)


@FEWER
@given(ANY, ANY)
def test_a_restored_card_goes_on_as_the_original(before: list[Step], after: list[Step]) -> None:
    original = perform_all(before)
    copy = Nic()
    copy.clock.now = original.clock.now
    copy.memory.view[:] = original.memory.view
    copy.tx_tail = original.tx_tail
    snapshot = original.pc.snapshot()
    copy.pc.restore(snapshot)
    assert copy.pc.snapshot() == snapshot
    sent = len(original.cable.frames)
    for step in after:
        assert perform(copy, step) == perform(original, step)
    assert copy.pc.snapshot() == original.pc.snapshot()
    assert copy.cable.frames == original.cable.frames[sent:]
    assert bytes(copy.memory.view) == bytes(original.memory.view)
