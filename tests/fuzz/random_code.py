"""Random bytes as code, in every mode and on every profile: whatever a guest does to itself, it is data."""

from __future__ import annotations

import random
from collections.abc import Callable

from engine.harness import CODE, CODE16, DATA, DATA16, DESCRIPTORS, STACK
from trapgate.arch import layout
from trapgate.arch.cpuid import PROFILES
from trapgate.arch.registers import CS, DF, IOPL, SS, VM
from trapgate.arch.segments import DPL_SHIFT
from trapgate.cpu.segmentation import V86_ATTRIBUTES
from trapgate.engine.handlers import HandlerStore

from .machine import FuzzMachine, Snapshot

REASONS = {"limit", "halted", "triple-fault", "unimplemented", "request"}
#: A case's bounds: instructions, and modelled cycles (an exception costs 100) without completing one.
INSTRUCTIONS, CYCLES = 100, 1_000
#: Cases that share a mode and a profile, one after the other.
TOGETHER = 64
LENGTH = 192

#: A handler that goes on one byte behind what has faulted, by the size of its code: without and with an error code.
_NEXT = {
    16: ("55 89e5 ff4602 5d cf", "55 89e5 ff4602 5d cf"),  # push bp; mov bp, sp; inc word [bp+2]; pop bp; iret
    32: ("ff0424 cf", "83c404 ff0424 cf"),  # inc dword [esp]; iretd
    64: ("48ff0424 48cf", "4883c408 48ff0424 48cf"),
}
_WITH_ERROR_CODE = frozenset((8, 10, 11, 12, 13, 14, 17))

_PREFIXES = bytes.fromhex("26 2e 36 3e 64 65 66 67 f0 f2 f3")
#: Instructions that noise rarely hits: privileged ones, far transfers, strings, x87 and SSE state, loops.
_WHOLE = [bytes.fromhex(text) for text in """
    0f20c0 0f22c0 0f20d8 0f22d8 0f20e0 0f22e0 0f22d0 0f01f0 0f01e0 0f0138 0f0110 0f0118 0f00d8 0f00d0 0f32 0f30 cf
    cb ca0400 9a00800000800000 ea00800000180000 ea00800800 fb fa 9d 9c 8ed8 8ed0 8ec0 8ee0 8ee8 1f 17 07 0fa1 cd30
    cc ce f1 0f05 0f07 0f34 0f35 0f01f8 0f01f9 0f31 f3a4 f3ab f2ae f3a6 a4 ab 6c 6d 6e 6f ec ed ee ef e480 0fc70b
    0fb10b 870b 0fae03 0fae0b 0fae13 0fae1b ddd8 dd33 dd23 d93b 0f08 0f09 0f0b 0fb9c0 0fff c8080000 c9 60 61 62
    0f0100 0f23f8 0f21f0 0f23c0 0f06 d7 e2fe e8fbffffff ebfe 74f0 f4 48cf 48cb 0f00d9 0f01d0 0faa 0f02c3 0f03c3
    0f00e3 0f00eb 63c3 0fb20b 0fb40b c40b c50b 0f0108 0f0138 0fa2 0f33 9b d9d0 dbe3 f3ac f26e f36c f3aa 9a00800000330000
""".split()]  # fmt: skip  # noqa: SIM905
#: Instructions that do something, to get far: moves, arithmetic, pushes, short jumps.
_PLAIN = [bytes.fromhex(text) for text in
          "40 4b 01c8 29d8 31c9 8b03 8903 50 58 83c001 7502 eb01 0fafc3 c1e003 8d0418 0fb6c1 0f28c1 660fefc0 d8c1 f7f1".split()]  # fmt: skip  # noqa: E501, SIM905


def code(choose: random.Random, length: int = LENGTH) -> bytes:
    """Noise, whole instructions and prefixes, in a mixture that is by chance itself."""
    if choose.random() < 0.2:
        return choose.randbytes(length)
    out = bytearray()
    noise = choose.random()
    while len(out) < length:
        kind = choose.random()
        if kind > noise:
            if choose.random() < 0.3:
                out.append(choose.choice(_PREFIXES))
            out += choose.choice(_WHOLE if choose.random() < 0.5 else _PLAIN)
            continue
        if choose.random() < 0.2:
            out.append(choose.choice(_PREFIXES))
        if choose.random() < 0.1:
            out.append(0x40 | choose.randrange(16))
        if choose.random() < 0.3:
            out.append(0x0F)
        out.append(choose.randrange(256))
        out += choose.randbytes(choose.randrange(4))
    return bytes(out[:length])


def _value(choose: random.Random) -> int:
    kind = choose.randrange(10)
    if kind == 0:
        return choose.randrange(CODE, CODE + 0x200)
    if kind < 4:
        return DATA + choose.randrange(0x4000)
    if kind == 4:
        return choose.randrange(64)
    if kind == 5:
        return choose.randrange(1 << 20)
    if kind == 6:
        return choose.getrandbits(64)
    if kind == 7:
        return -choose.randrange(64) & (1 << 64) - 1
    if kind == 8:
        return choose.randrange(0xF_F000, 0x10_1000)
    return choose.choice((0xF000_0000, 0x8000_0000, 0xFFFF_FFFF, 0xFEE0_0000, 1 << 47)) + choose.randrange(0x1000)


def _protected16(machine: FuzzMachine, cpl: int) -> None:
    """16-bit code and data of 64 KB; CPL 3 has descriptors of its own."""
    machine.enter_protected(cpl=0)
    level = cpl << DPL_SHIFT
    p = machine.processor
    for number, segment in enumerate(p.segments):
        source = CODE16 if number == CS else DATA16
        selector = source + 0x68 | cpl if cpl else source
        value = DESCRIPTORS[source] | level << 40
        machine.set_descriptor(selector, value)
        segment.load(selector, 0, 0xFFFF, value >> 40 & 0xFF)
        if number in (CS, SS):
            p.set_state_field(layout.CODE_DESCRIPTOR if number == CS else layout.STACK_DESCRIPTOR, value)
    p.cpl = cpl
    machine._entered()


def _virtual8086(machine: FuzzMachine, iopl: int) -> None:
    machine.enter_protected(cpl=3)
    p = machine.processor
    for segment in p.segments:
        segment.load(0, 0, 0xFFFF, V86_ATTRIBUTES)
    p.rflags = 2 | VM | iopl << 12
    for vector in range(256):
        machine.memory.write_u32(4 * vector, 0x4000 + 16 * vector)
    machine._entered()


#: Mode -> (what enters it, the CPUID flag or feature that it needs).
MODES: dict[str, tuple[Callable[[FuzzMachine], object], str]] = {
    "real": (lambda m: m.enter_real(), ""),
    "virtual-8086": (lambda m: _virtual8086(m, 3), ""),
    "virtual-8086, IOPL 0": (lambda m: _virtual8086(m, 0), ""),
    "16-bit": (lambda m: _protected16(m, 0), ""),
    "16-bit, CPL 3": (lambda m: _protected16(m, 3), ""),
    "32-bit": (lambda m: m.enter_protected(), ""),
    "32-bit, CPL 3": (lambda m: m.enter_protected(cpl=3), ""),
    "32-bit, paging": (lambda m: m.enter_protected("two-level"), ""),
    "PAE": (lambda m: m.enter_protected("pae"), "PAE"),
    "PAE, CPL 3": (lambda m: m.enter_protected("pae", cpl=3), "PAE"),
    "compatibility": (lambda m: m.enter_long(compatibility=True), "LM"),
    "compatibility, CPL 3": (lambda m: m.enter_long(cpl=3, compatibility=True), "LM"),
    "64-bit": (lambda m: m.enter_long(), "LM"),
    "64-bit, CPL 3": (lambda m: m.enter_long(cpl=3), "LM"),
}
PLACES = [(name, mode) for name, profile in PROFILES.items() for mode, (_, flag) in MODES.items()
          if not flag or flag in profile.flags]  # fmt: skip


class RandomCode:
    """The family: `run(choose, index)` runs one case."""

    def __init__(self, handlers: HandlerStore) -> None:
        self._handlers = handlers
        self._machines: dict[str, FuzzMachine] = {}
        self._snapshots: dict[tuple[str, str], Snapshot] = {}
        self._machine: FuzzMachine | None = None

    def _prepared(self, index: int) -> FuzzMachine:
        profile, mode = PLACES[index // TOGETHER % len(PLACES)]
        machine = self._machines.get(profile)
        if machine is None:
            machine = self._machines[profile] = FuzzMachine(self._handlers, PROFILES[profile])
        snapshot = self._snapshots.get((profile, mode))
        if snapshot is None:
            machine.blank()
            machine.memory.write(0x4000, (b"\xf4" + bytes(15)) * 256)
            MODES[mode][0](machine)
            snapshot = self._snapshots[profile, mode] = Snapshot(machine)
        machine.restore(snapshot)
        return machine

    def run(self, choose: random.Random, index: int) -> str:
        """One case; how it ended. Raises what went wrong."""
        machine = self._machine = self._prepared(index)
        memory, p = machine.memory, machine.processor
        # Handlers are random code too, or go on behind what has faulted, so that a case gets beyond its first exception.  # noqa: E501
        bits = 16 if p.real_mode else 64 if p.long_mode else 32
        for vector in (*range(20), 0x30, 0x40):
            kind = choose.random()
            text = code(choose, 16) if kind < 0.2 else b"\xf4" if kind < 0.3 else \
                bytes.fromhex(_NEXT[bits][vector in _WITH_ERROR_CODE])  # fmt: skip
            memory.write(0x4000 + 16 * vector, text)
        for place in (CODE, 0x9000, 0xA000):
            memory.write(place, code(choose))
        q = p.q
        for number in range(16):
            q[number] = _value(choose)
        q[4] = STACK - choose.randrange(64)
        kept = p.rflags & (VM | IOPL)
        p.rflags = 2 | choose.getrandbits(12) & (~0x100 if choose.random() < 0.9 else -1) | kept
        if choose.random() < 0.5:
            p.rflags &= ~DF
        for _ in range(2):
            machine.clock.schedule(choose.randrange(1, 600), lambda: p.set_intr(True))
        stopped = machine.run_case(INSTRUCTIONS, CYCLES)
        assert stopped.reason in REASONS, stopped
        machine.check()
        return stopped.reason

    def describe(self, index: int) -> str:
        """What a reader wants to know about the case that has just failed."""
        machine = self._machine
        profile, mode = PLACES[index // TOGETHER % len(PLACES)]
        lines = [f"{mode} on {profile}"]
        if machine is not None:
            p = machine.processor
            lines.append(
                f"rip {p.rip:#x}, cs {p.segments[CS].selector:#x}, CPL {p.cpl}, cr0 {p.cr0:#x}, cr4 {p.cr4:#x}"
            )
            lines.append(f"registers {machine.registers()}")
            lines.append(f"code at {CODE:#x}: {machine.memory.read(CODE, LENGTH).hex()}")
            lines.append(f"last exceptions {list(p.recent_exceptions)}")
        return "\n".join(lines)
