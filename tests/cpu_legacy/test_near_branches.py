"""Direct near branches out of the code segment, and instructions of more than 15 bytes (APM vol. 3, JMP near, 1.1)."""

from __future__ import annotations

import pytest

from trapgate.engine.handlers import HandlerStore
from trapgate.isa.length import is_too_long

from .conftest import Check
from .flat32 import Flat32

_LIMIT = 0x1FFF


@pytest.fixture(scope="module")
def code(handlers: HandlerStore) -> Flat32:
    return Flat32(handlers)


@pytest.mark.parametrize(
    ("text", "registers", "faults"),
    [
        ("e9 00 20 00 00", {}, True),  # jmp
        ("e8 00 20 00 00", {}, True),  # call
        ("0f 84 00 20 00 00", {"rflags": 0x42}, True),  # jz
        ("0f 84 00 20 00 00", {"rflags": 0x02}, False),
        ("0f 8f 00 20 00 00", {"rflags": 0x02}, True),  # jg
        ("0f 8f 00 20 00 00", {"rflags": 0x82}, False),
        ("e2 80", {"ecx": 2}, True),  # loop, below 0
        ("e2 80", {"ecx": 1}, False),
        ("e1 80", {"ecx": 2, "rflags": 2}, False),  # loope
        ("67 e2 80", {"ecx": 0x10001}, False),  # loop with cx
        ("e3 80", {"ecx": 0}, True),  # jecxz
        ("e3 80", {"ecx": 1}, False),
    ],
)
def test_branch_beyond_the_limit(code: Flat32, text: str, registers: dict[str, int], faults: bool) -> None:
    """#GP(0) at the branch if it is taken, with registers and stack as they were."""
    data = bytes.fromhex(text)
    before, fault, after = code.run(data, at=0x10, code_limit=_LIMIT, **registers)
    if faults:
        assert fault is not None
        assert (fault.vector, fault.error) == (13, 0)
        assert after == before
    else:
        assert fault is None
        assert after["eip"] == 0x10 + len(data)
        counts = data[-2] in (0xE0, 0xE1, 0xE2)
        mask = 0xFFFF if data[0] == 0x67 else 0xFFFF_FFFF
        expected = before["ecx"] & ~mask | before["ecx"] - counts & mask
        assert after["ecx"] == expected


@pytest.mark.parametrize(
    ("text", "bits", "too_long"),
    [
        ("66 " * 14 + "90", 32, False),
        ("66 " * 15 + "90", 32, True),
        ("2e " * 11 + "a1 00 00 00 00", 32, True),
        ("2e " * 10 + "a1 00 00 00 00", 32, False),
        ("66 " * 11 + "48 b8 00 00 00", 64, True),
        ("f0 " * 14 + "90", 32, False),  # LOCK NOP: #UD
        ("2e " * 13 + "0f 0b", 32, False),
        ("2e " * 13 + "0f b6", 32, True),
    ],
)
def test_length(text: str, bits: int, too_long: bool) -> None:
    assert is_too_long(bytes.fromhex(text)[:15], bits) == too_long


@pytest.mark.parametrize(("prefixes", "vector"), [(14, None), (15, 13), (40, 13)])
def test_too_long_an_instruction(code: Flat32, prefixes: int, vector: int | None) -> None:
    """#GP(0), not #UD."""
    before, fault, after = code.run(b"\x66" * prefixes + b"\x90", at=0x10, code_limit=_LIMIT)
    assert (fault.vector if fault else None) == vector
    if fault:
        assert fault.error == 0
        assert after == before


def test_on_qemu_too(check: Check) -> None:
    """The length alone: QEMU does not check the limit of CS at branches."""
    check(
        """
test_body:
        try "15"
        times 14 db 0x2E
        nop
        done
        try "16"
        times 15 db 0x2E
        nop
        done
        ret
""",
        """
        15: ok
        16: 0000000d 00000000 00000000
        """,
    )
