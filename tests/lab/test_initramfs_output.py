"""Taking a command's output out of the console's bytes, in pieces of any size."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from trapgate.lab.console_output import ConsoleSplitter

TOKEN = "0123456789abcdef"
START = b"\x1e" + TOKEN.encode() + b":start"
END = b"\x1e" + TOKEN.encode() + b":status:"
PARTS = [START, END, END[:9], END + b"1", b"\x1e", b"\n"]


def split(pieces: list[bytes]) -> tuple[bytes, int | None, ConsoleSplitter]:
    splitter = ConsoleSplitter(TOKEN)
    output = b"".join(splitter.feed(piece) for piece in pieces) + splitter.finish()
    return output, splitter.status, splitter


def test_output_is_exact() -> None:
    console = b"boot\r\n[1.0] messages\r\n" + START + b"\na\r\nb\x00\xff no newline" + END + b"37\n[2.0] Power down\r\n"
    output, status, splitter = split([console])
    assert output == b"a\r\nb\x00\xff no newline"
    assert status == 37
    assert splitter.preamble == b"boot\r\n[1.0] messages\r\n"


def test_output_comes_as_soon_as_it_is_certain() -> None:
    splitter = ConsoleSplitter(TOKEN)
    assert splitter.feed(b"x" + START) == b""
    assert splitter.feed(b"\r\nabc") == b"abc"
    assert splitter.feed(b"def" + END[:5]) == b"def"
    assert splitter.feed(b"!") == END[:5] + b"!"
    assert splitter.feed(END) == b""
    assert splitter.feed(b"0") == b""
    assert splitter.status is None
    assert splitter.feed(b"\r\n") == b""
    assert splitter.status == 0


def test_what_only_looks_like_a_marker_is_output() -> None:
    for fake in (END + b"\n", END + b"x", END + b"1234\n", END + b"999\n", b"\x1e", END + END, END + b"12"):
        assert split([START + b"\n" + fake + b"|" + END + b"5\n"])[:2] == (fake + b"|", 5)


def test_guest_that_ends_early() -> None:
    output, status, splitter = split([b"Kernel panic"])
    assert (output, status, splitter.started, splitter.preamble) == (b"", None, False, b"Kernel panic")
    assert split([START + b"\nhalf" + END[:4]])[:2] == (b"half" + END[:4], None)


@settings(max_examples=300, deadline=None)
@given(
    before=st.binary(max_size=50),
    body=st.lists(st.one_of(st.binary(max_size=20), st.sampled_from(PARTS)), max_size=6).map(b"".join),
    status=st.integers(0, 255),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_pieces_do_not_matter(before: bytes, body: bytes, status: int, cuts: list[int]) -> None:
    console = before + START + b"\n" + body + END + str(status).encode() + b"\n" + b"after"
    edges = sorted({0, len(console), *(cut for cut in cuts if cut < len(console))})
    pieces = [console[a:b] for a, b in itertools.pairwise(edges)]
    whole = split([console])[:2]
    assert split(pieces)[:2] == whole
    assert split([bytes([byte]) for byte in console])[:2] == whole
    if END not in body:
        assert whole == (body, status)
