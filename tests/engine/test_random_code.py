"""Random bytes as code: whatever a guest does to itself, it is data.

TRAPGATE_RANDOM_CASES=N runs N cases of each kind, from the seed TRAPGATE_RANDOM_SEED on, for long runs by hand.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from cpu.tlb_world import check_fast_tables
from engine.harness import CODE, DATA, STACK, Guest
from trapgate.arch import layout
from trapgate.arch.registers import CR0_PG
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.cpu import tlb
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.raw import RawImage
from trapgate.machine.console import NullConsole
from trapgate.machine.control import UserQuit

Make = Callable[[], Guest]
CASES = int(os.environ.get("TRAPGATE_RANDOM_CASES", "25"))
FIRST_SEED = int(os.environ.get("TRAPGATE_RANDOM_SEED", "0"))
REASONS = {"limit", "halted", "triple-fault", "unimplemented", "request"}
#: Modelled cycles after which a case is ended: a string instruction can take very long without an instruction.
MOST_CYCLES = 200_000
_PREFIXES = bytes.fromhex("26 2e 36 3e 64 65 66 67 f0 f2 f3")
#: System instructions, which random bytes rarely hit, and the like.
_SYSTEM = """
    0f20c0 0f22c0 0f20d8 0f22d8 0f20e0 0f22e0 0f22d0 0f01f0 0f01e0 0f0138 0f0110 0f0118 0f00d8 0f00d0 0f32 0f30 cf
    cb ca0400 9a00800000800000 ea00800000180000 ea00800800 fb fa 9d 9c 8ed8 8ed0 8ec0 8ee0 8ee8 1f 17 07 0fa1 cd30
    cc ce f1 0f05 0f07 0f34 0f35 0f01f8 0f01f9 0f31 f3a4 f3ab f2ae f3a6 a4 ab 6c 6d 6e 6f ec ed ee ef e480 0fc70b
    0fb10b 870b 0fae03 0fae0b 0fae13 0fae1b ddd8 dd33 dd23 d93b 0f08 0f09 0f0b 0fb9c0 0fff c8080000 c9 60 61 62
    0f0100 0f23f8 0f21f0 0f23c0 0f06 d7 e2fe e8fbffffff ebfe 74f0 f4
"""
_INTERESTING = [bytes.fromhex(text) for text in _SYSTEM.split()]


def _code(choose: random.Random) -> bytes:
    out = bytearray()
    while len(out) < 400:
        kind = choose.random()
        if kind < 0.2:
            out += choose.choice(_INTERESTING)
            continue
        if kind < 0.4:
            out.append(choose.choice(_PREFIXES))
        if kind < 0.5:
            out.append(0x40 | choose.randrange(16))
        if 0.3 < kind < 0.6:
            out.append(0x0F)
        out.append(choose.randrange(256))
        out += choose.randbytes(choose.randrange(4))
    return bytes(out)


def _value(choose: random.Random) -> int:
    return choose.choice(
        (
            choose.randrange(CODE, CODE + 0x200), choose.randrange(DATA, DATA + 0x4000), choose.randrange(64),
            choose.randrange(0x8_0000), choose.getrandbits(32), choose.getrandbits(64), -choose.randrange(64),
            choose.randrange(0x3F_F000, 0x40_1000), 0xF000_0000 + choose.randrange(0x1000),
        )
    ) & (1 << 64) - 1  # fmt: skip


def _check(g: Guest) -> None:
    """What native code may write through lies in RAM."""
    processor = g.processor
    if processor.cr0 & CR0_PG:
        check_fast_tables(g)
    q, ram = processor.q, processor.q[layout.RAM_BASE >> 3]
    for slot in range(2 * tlb.FAST_ENTRIES):
        at = (tlb.DATA.fast + slot * tlb.FAST_SIZE) >> 3
        for tag in (q[at], q[at + 1]):
            if tag != (1 << 64) - 1:
                physical = tag + q[at + 2] - ram & (1 << 64) - 1
                assert g.memory.is_ram(physical, 0x1000), f"a fast entry leads to {physical:#x}, which is not RAM"


_MODES: dict[str, Callable[[Guest], Guest]] = {
    "real": lambda g: g.enter_real(),
    "protected": lambda g: g.enter_protected(),
    "two-level": lambda g: g.enter_protected("two-level"),
    "pae at CPL 3": lambda g: g.enter_protected("pae", cpl=3),
    "long": lambda g: g.enter_long(),
    "long at CPL 3": lambda g: g.enter_long(cpl=3),
    "compatibility": lambda g: g.enter_long(compatibility=True),
}


@pytest.mark.parametrize("mode", _MODES)
def test_random_code(handlers: HandlerStore, mode: str) -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + CASES):
        choose = random.Random(f"{mode} {seed}")
        g = _MODES[mode](Guest(handlers))
        # Handlers are random code too, so that a case goes on after its first exception.
        for vector in range(256):
            g.memory.write(0x4000 + 16 * vector, choose.choice((b"\xf4", b"\xcf", b"\x48\xcf", _code(choose)[:16])))
        for place in (CODE, 0x9000, 0xA000):
            g.memory.write(place, _code(choose))
        g.set(**{name: _value(choose) for name in g.registers() if name not in ("rip", "rflags", "rsp")})
        g.set(rsp=STACK - choose.randrange(64), rflags=2 | choose.getrandbits(12) & ~0x100)
        g.clock.schedule(MOST_CYCLES, lambda g=g: g.control.stop(UserQuit()))  # type: ignore[misc]
        for _ in range(3):
            at = choose.randrange(1, 3000)
            g.clock.schedule(at, lambda g=g: g.processor.set_intr(True))  # type: ignore[misc]
        where = f"mode {mode}, seed {seed}"
        try:
            stopped = g.run(2000)
        except Exception as error:
            raise AssertionError(f"{where}, rip {g['rip']:#x}: {error!r}") from error
        assert stopped.reason in REASONS, where
        assert stopped.reason != "unimplemented" or "unimplemented: " in stopped.report, where
        _check(g)


def test_random_code_on_a_whole_machine(handlers: HandlerStore) -> None:
    """With all devices behind its ports."""
    for seed in range(FIRST_SEED, FIRST_SEED + CASES):
        choose = random.Random(f"machine {seed}")
        machine = BareMachine(MachineConfig(memory_size=4 << 20), NullConsole(), handlers)
        body = b"".join(
            choose.choice(
                (
                    b"\xb0" + choose.randbytes(1) + b"\xe6" + choose.randbytes(1),  # mov al, n; out n, al
                    b"\xe4" + choose.randbytes(1),  # in al, n
                    b"\xb8" + choose.randbytes(2) + b"\xe7" + choose.randbytes(1),  # mov ax, n; out n, ax
                    b"\xba" + choose.choice((b"\xf8\x03", b"\xf9\x03", b"\xfb\x03", b"\x00\x06", b"\xf8\x0c"))
                    + choose.choice((b"\xee", b"\xec", b"\xef", b"\xed")),  # mov dx, n; an access
                    _code(choose)[:6],
                    b"\xfb",
                )
            )
            for _ in range(60)
        )  # fmt: skip
        machine.load(RawImage(body + b"\xeb\xfe"))
        clock, control = machine.clock, machine.control
        clock.schedule(20 * MOST_CYCLES, lambda control=control: control.stop(UserQuit()))  # type: ignore[misc]
        try:
            stopped = machine.run(20_000)
        except Exception as error:
            raise AssertionError(f"seed {seed}, rip {machine.processor.rip:#x}: {error!r}") from error
        assert stopped.reason in REASONS
