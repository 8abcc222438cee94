"""The protocol's framing: whole packets, pieces, wrong sums, garbage, and lengths that nobody means."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trapgate.debug.gdb.packets import INTERRUPT, PACKET_SIZE, PacketReader, escape, frame, unescape


def read(reader: PacketReader, *pieces: bytes) -> list[bytes]:
    return [packet for piece in pieces for packet in reader.feed(piece)]


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 7))
def test_packets_arrive_however_they_are_cut(contents: list[bytes], size: int) -> None:
    stream = b"".join(frame(escape(content)) for content in contents)
    reader = PacketReader()
    assert read(reader, *(stream[i : i + size] for i in range(0, len(stream), size))) == contents
    assert bytes(reader.answers) == b"+" * len(contents)


@given(st.binary())
def test_escapes(data: bytes) -> None:
    assert unescape(escape(data)) == data
    assert not set(escape(data)) & set(b"$#*")


def test_a_wrong_sum_is_refused_and_the_packet_sent_again_is_taken() -> None:
    reader = PacketReader()
    assert read(reader, b"$g#00", b"$g#zz", frame(b"g")) == [b"g"]
    assert bytes(reader.answers) == b"--+"
    assert reader.refused == 2


def test_without_acknowledgements_sums_are_not_looked_at() -> None:
    reader = PacketReader()
    reader.acknowledges = False
    assert read(reader, b"$g#00") == [b"g"]
    assert not reader.answers


def test_interrupts_and_refusals_come_between_packets() -> None:
    reader = PacketReader()
    assert read(reader, b"+\x03-+" + frame(b"\x03")) == [INTERRUPT, INTERRUPT]  # the second one is a packet's data
    assert reader.wants_again


def test_a_packet_that_never_ends_is_dropped() -> None:
    reader = PacketReader()
    assert read(reader, b"$" + b"a" * (PACKET_SIZE + 1), b"b" * 100, b"#00", frame(b"g")) == [b"g"]
    assert reader.refused == 1
    assert len(reader._data) == 0


def test_a_packet_that_was_given_up_is_forgotten() -> None:
    assert read(PacketReader(), b"$m0,1" + frame(b"g")) == [b"g"]


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_garbage_does_not_pile_up(pieces: list[bytes]) -> None:
    reader = PacketReader()
    read(reader, *pieces)
    assert len(reader._data) <= 3
    assert reader._packet is None or len(reader._packet) <= PACKET_SIZE
