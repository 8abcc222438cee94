"""What native code decodes is what Python decodes: random code, of which constants change after Python has seen it."""

from __future__ import annotations

import ctypes
import mmap
import random
import struct
from pathlib import Path

import pytest

from trapgate.arch.cpuid import OPTERON_2007
from trapgate.cpu.mode import DecodeMode
from trapgate.engine import page_code, templates
from trapgate.engine.compile import CodeFolder
from trapgate.engine.handler_keys import handler_keys
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.patterns import ENTRY_SIZE, IS_FIXED, LENGTH, PATTERNS, place_of, shape_of
from trapgate.engine.templates import Row, Templates
from trapgate.isa.decode import Decoder
from trapgate.isa.processor import PYTHON_FORMS

MODE = DecodeMode(64, "64", 0, 0, False, False, True, True, "", "", "", False)
_M64 = (1 << 64) - 1
#: Opcodes that random code has more often than by chance: what compilers write.
OPCODES = [
    "89", "8b", "01", "29", "39", "85", "83", "81", "c7", "c1", "d1", "8d", "0fb6", "0fbe", "0faf", "f7", "ff", "6b",
    "69", "b8", "48b9", "50", "5d", "3d", "a9", "a8", "0f4c", "0f92", "0fa3", "0fba", "0f10", "660f6f", "f20f58",
    "0fc6", "660f70", "65488b0425", "c3", "74", "0f84", "e8", "eb", "80", "c6", "88", "c0", "66c7", "6681", "31",
    "0fac",
]  # fmt: skip


class Handlers:
    """Stands for compiled handlers: each has an address, none is run."""

    def __init__(self, real: HandlerStore) -> None:
        self.runtime = real.runtime
        self._addresses: dict[str, int] = {}

    def address(self, key: str) -> int:
        return self._addresses.setdefault(key, 0x1000 * (len(self._addresses) + 1))

    def has(self, key: str) -> bool:
        return True

    def build(self, keys: object) -> None:
        pass


class Both:
    """A page, decoded by Python and by native code."""

    def __init__(self, handlers: HandlerStore, folder: Path) -> None:
        self.memory = mmap.mmap(-1, 8192)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.handlers = Handlers(handlers)
        self.decoder = Decoder(MODE, OPTERON_2007.features, frozenset(PYTHON_FORMS))
        self.templates = Templates(CodeFolder(folder), self.handlers, "test")  # type: ignore[arg-type]

    def learn(self, place: int) -> bool:
        """Have Python decode and learn the block at a place of the page."""
        code = bytes(self.memory[place:4096])
        decoded, _ = self.decoder.block(code, 64, False)
        if not decoded:
            return False
        length = sum(d.length for d in decoded)
        return self.templates.learn(code, length, decoded, handler_keys(decoded)) is not None

    def compare(self, place: int) -> bool:
        """Have native code decode the block at a place, if it can: it is what Python makes of it."""
        found = self.templates.decode(self.address, place)
        if found is None:
            return False
        code = bytes(self.memory[place:4096])
        decoded, _ = self.decoder.block(code, 64, False)
        last = decoded[-1]
        target = None if last.target is None else last.target - last.length & _M64
        length, cycles = sum(d.length for d in decoded), sum(d.cycles for d in decoded)
        number, row = found
        assert row == Row(code[:length], len(decoded), cycles, last.ends_block, target)
        t = self.templates
        _, indices, *_ = templates._ROW.unpack_from(t._rows.view, number * page_code.ROW_SIZE)
        numbers = struct.unpack_from(f"<{len(decoded)}I", t._indices.view, indices * 4)
        for number, d, key in zip(numbers, decoded, handler_keys(decoded), strict=True):
            *known, name = templates._INSTRUCTION.unpack_from(t._pool.view, number * page_code.POOL_SIZE)
            relative = d.relative or 0, int(d.relative is not None)
            assert tuple(known) == (self.handlers.address(key), d.body, *relative, d.cycles, d.length), d.instruction
            assert list(t._keys)[name] == key
        assert t.find(code) is not None
        return True


@pytest.fixture
def both(handlers: HandlerStore, tmp_path: Path) -> Both:
    return Both(handlers, tmp_path)


def _random_code(rng: random.Random) -> bytes:
    """Instructions, most of them valid."""
    code = b""
    while len(code) < 2000:
        prefix = rng.choice(
            [b"", b"", b"\x48", b"\x48", b"\x41", b"\x4c", b"\x66", b"\xf3", bytes([rng.randrange(256)])]
        )
        code += prefix + bytes.fromhex(rng.choice(OPCODES)) + rng.randbytes(rng.choice((1, 2, 2, 5, 6)))
    return code


@pytest.mark.parametrize("seed", range(12))
def test_random_code(both: Both, seed: int) -> None:
    rng = random.Random(seed)
    native = learned = same = 0
    for _ in range(30):
        code = bytearray(_random_code(rng))
        for place in rng.sample(range(1900), 60):
            both.memory[0:4096] = code.ljust(4096, b"\0")
            if not both.learn(place):
                continue
            learned += 1
            same += both.compare(place)  # not where it has MOV with an absolute address, VEX and the like
            for _ in range(5):
                at = place + rng.randrange(24)
                both.memory[at : at + 1] = rng.randbytes(1)
                native += both.compare(place)
    assert learned > 200
    assert same > 0.8 * learned
    assert native > learned


@pytest.mark.parametrize(
    ("code", "constants"),
    [
        ("83 e8 05  74 10", "83 e8 f0  74 80"),  # sign-extended, and fused
        ("48 8b 05 10 00 00 00  c3", "48 8b 05 f0 ff ff ff  c3"),  # relative to rip
        ("65 48 8b 04 25 28 00 00 00  c3", "65 48 8b 04 25 00 00 00 80  c3"),  # absolute
        ("48 b8 01 02 03 04 05 06 07 08  c3", "48 b8 ff ff ff ff ff ff ff 80  c3"),  # 64 bits
        ("c7 44 24 08 01 00 00 00  c3", "c7 44 24 80 00 00 00 80  c3"),  # both
        ("66 c7 40 08 01 00  c3", "66 c7 40 10 ff 80  c3"),
        ("e8 01 02 03 04", "e8 fc ff ff ff"),
        ("c1 e0 05  c3", "c1 e0 05  c3"),
        ("d1 e0  c3", "d1 e0  c3"),
        ("c2 08 00", "c2 10 80"),
        ("8d 04 88  8d 44 88 04  c3", "8d 04 88  8d 44 88 fc  c3"),
    ],
)
def test_constants(both: Both, code: str, constants: str) -> None:
    both.memory[0:64] = bytes.fromhex(code).ljust(64, b"\x90")
    assert both.learn(0)
    both.memory[100:164] = bytes.fromhex(constants).ljust(64, b"\x90")
    assert both.compare(100)


def test_a_shift_is_known_by_its_count(both: Both) -> None:
    """A count of 0 leaves the flags as they were."""
    both.memory[0:3] = bytes.fromhex("c1 e0 05")
    both.memory[3:4] = b"\xc3"
    assert both.learn(0)
    for count in (0, 32, 4):
        both.memory[2:3] = bytes([count])
        assert not both.compare(0)
        assert both.learn(0)
        assert both.compare(0)


def test_flags_that_are_looked_at_need_their_own_handler(both: Both) -> None:
    """ADD, whose flags nobody looks at before the CMP, and ADD in front of a SETcc."""
    both.memory[0:6] = bytes.fromhex("01 c8  39 c8  c3 90")
    assert both.learn(0)
    both.memory[0:6] = bytes.fromhex("01 c8  0f 92 c0  c3")
    assert not both.compare(0)
    assert both.learn(0)
    assert both.compare(0)


def test_a_longest_block(both: Both) -> None:
    both.memory[0:200] = b"\x90" * 200
    assert both.learn(0)
    both.memory[1000:1200] = b"\x90" * 200
    assert both.compare(1000)
    number, row = both.templates.row_count - 1, both.templates.row(both.templates.row_count - 1)
    assert (number, row.instructions, row.ends) == (1, 64, False)


def test_the_end_of_a_page_is_python_s(both: Both) -> None:
    both.memory[0:1] = b"\xc3"
    assert both.learn(0)
    for place, natively in ((4064, True), (4065, False), (4095, False)):
        both.memory[place : place + 1] = b"\xc3"
        assert both.compare(place) == natively


@pytest.mark.parametrize(
    ("code", "native"),
    [
        ("0f a2", False), ("f4", False), ("c4 e2 78 f2 c0", False), ("62 f1 7c 48 10 c0", False),
        ("8f e8 78 c0", False), ("fa", True), ("0f 01 f8", True),
    ],
)  # fmt: skip
def test_what_python_carries_out_is_not_learned(both: Both, code: str, native: bool) -> None:
    """CLI and SWAPGS are native at CPL 0."""
    both.memory[0:16] = bytes.fromhex(code).ljust(16, b"\xc3")
    assert both.learn(0) == native
    both.memory[100:116] = both.memory[0:16]
    assert both.compare(100) == native


def test_what_is_known_is_kept_for_later_runs(both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other numbers of keys and other addresses."""
    monkeypatch.setattr(templates, "ENOUGH_PATTERNS", 1)
    code = bytes.fromhex("83 e8 05  01 d0  39 c8  74 10")
    both.memory[0 : len(code)] = code
    assert both.learn(0)
    both.templates.save()
    again = Both(both.handlers, tmp_path)  # type: ignore[arg-type]
    again.handlers.address("something else")
    again.templates._number("something else")
    again.memory[0 : len(code)] = code.replace(b"\x05", b"\xf5")
    assert again.compare(0)


@pytest.mark.parametrize("code", ["4f 48 6b 00 9e  72 a9", "66 48 66 01 00  c3", "0f 1f 00  c3"])
def test_cores_that_end_in_zeros(both: Both, code: str) -> None:
    """Found by random code: a core that was taken for too short, filled up with zeros, was another one."""
    both.memory[0:64] = bytes.fromhex(code).ljust(64, b"\x90")
    both.learn(0)
    both.memory[100:164] = both.memory[0:64]
    both.compare(100)


def test_a_full_table_learns_no_more(both: Both) -> None:
    """The places of a pattern are taken by others: Python goes on decoding it."""
    code = bytes.fromhex("83 c0 05")
    d = both.decoder.block(code, 1, True)[0][0]
    shape = shape_of(d, code)
    assert shape is not None
    first = place_of(int.from_bytes(code[: shape.core], "little"), shape.core << LENGTH)
    table = both.templates._decoding.patterns._memory
    for number in range(first, first + 8):
        struct.pack_into("<Q52xI", table, number % PATTERNS * ENTRY_SIZE, IS_FIXED, 1)
    both.memory[0:4] = code + b"\xc3"
    assert both.learn(0)
    assert not both.compare(0)
