"""One random program on two machines, one without the hot tier and one with it, compared whenever both stop."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import iced_x86 as iced

from engine.harness import CODE32, CODE64, Guest, P, U
from trapgate.arch import layout
from trapgate.arch.registers import CR4_OSFXSR
from trapgate.engine.handlers import HandlerStore
from trapgate.lab.lockstep import memory_difference
from trapgate.lab.processor_state import read_state, read_tlb

from .programs import Program, pointers, program

#: Guest-physical places: exception handlers, what they count, where an interrupt goes on, data (five pages), stack.
HANDLERS, COUNT, NEXT, DATA, STACK = 0x7200, 0x7800, 0x7808, 0x1_0000, 0x3_F000
SMALL_DATA, SMALL_STACK = 0xA000, 0xFF00
#: The data page that #PF's handler makes writable and read-only in turn.
TURNING = 0x2000
#: Regions of one case after which no more are forced: code that changes itself would have new ones for ever.
ENOUGH = 12
WITH_ERROR = (8, 10, 11, 12, 13, 14, 17)
MODES: dict[str, tuple[int, Callable[[Guest], Guest]]] = {
    "long": (64, lambda g: g.enter_long()),
    "user": (64, lambda g: g.enter_long(cpl=3)),
    "compatibility": (32, lambda g: g.enter_long(compatibility=True)),
    "protected": (32, lambda g: g.enter_protected()),
    "two-level": (32, lambda g: g.enter_protected("two-level", cpl=3)),
    "pae": (32, lambda g: g.enter_protected("pae")),
    "real": (16, lambda g: g.enter_real()),
}


@dataclass
class Case:
    """What a seed makes."""

    mode: str
    code: Program
    seed: str

    @property
    def bits(self) -> int:
        return MODES[self.mode][0]

    def listing(self) -> str:
        """The program's disassembly."""
        formatter = iced.Formatter(iced.FormatterSyntax.NASM)
        decoder = iced.Decoder(self.bits, bytes(self.code.data), ip=self.code.origin)
        lines = []
        for i in decoder:
            label = f"L{self.code.labels.index(i.ip)}:\n" if i.ip in self.code.labels else ""
            place = i.ip - self.code.origin
            data = bytes(self.code.data[place : place + i.len]).hex(" ")
            lines.append(f"{label}    {i.ip:x}  {data:<30} {formatter.format(i)}")
        return "\n".join(lines)


def make_case(seed: str) -> Case:
    """The case of a seed."""
    choose = random.Random(seed)
    mode = choose.choice(list(MODES))
    bits = MODES[mode][0]
    origin = choose.choice((0x8000, 0x8F80, 0x8FC3, 0x8FE0))
    data, stack = (SMALL_DATA, SMALL_STACK) if bits == 16 else (DATA, STACK)
    return Case(mode, program(choose, bits, origin, data, stack), seed)


def make_guest(case: Case, handlers: HandlerStore, hot: str) -> Guest:
    """A machine that is about to run it."""
    choose = random.Random(f"{case.seed} machine")
    g = MODES[case.mode][1](Guest(handlers, hot=hot))
    data = SMALL_DATA if case.bits == 16 else DATA
    g.memory.write(data, choose.randbytes(0x5000))
    if g.root:
        g.map(data + TURNING, data + TURNING, P | U)
        g.map(data + 0x4000, data + 0x1000)
    _install(g, case, pointers(choose, data))
    p = g.processor
    for number in range(16):
        p.q[number] = choose.getrandbits(64) & (2**64 - 1 if case.bits == 64 else 0xFFFF_FFFF)
    if case.bits != 16:
        p.segments[4].load(p.segments[3].selector, 0x100, 0x1_2FFF, p.segments[3].attributes)
    else:
        p.segments[4].load(0x10, 0x100, 0xFFFF, p.segments[3].attributes)
        p.state.set(layout.CR4, CR4_OSFXSR)
    p.state.bytes[layout.XMM : layout.XMM + 128] = choose.randbytes(128)
    g.memory.write(case.code.origin, bytes(case.code.data))
    g.go(case.code.origin)
    g.set(rsp=SMALL_STACK if case.bits == 16 else STACK, rflags=0x202)
    events = random.Random(f"{case.seed} events")

    def interrupt() -> None:
        g.memory.write_u32(NEXT, events.choice(case.code.labels))
        p.set_intr(True)
        g.clock.schedule(g.clock.now + events.randrange(20, 400), interrupt)

    g.clock.schedule(events.randrange(20, 400), interrupt)
    return g


def _install(g: Guest, case: Case, values: tuple[int, int, int]) -> None:
    """Handlers: exceptions set the pointers anew and go on at a label; traps clear TF; interrupts count, and every
    second one goes on at another label, so that no loop is for ever."""
    bits = case.bits
    start = random.Random(f"{case.seed} start").choice(case.code.labels)
    next_, counted = (place.to_bytes(2 if bits == 16 else 4, "little") for place in (NEXT, COUNT))
    word = 2 if bits == 16 else 4
    load = b"".join(bytes((0xB8 | r,)) + v.to_bytes(word, "little") for r, v in zip((3, 6, 7), values, strict=True))
    page = DATA + TURNING
    if bits == 16:
        fault = load + b"\x55\x89\xe5\xc7\x46\x02" + start.to_bytes(2, "little") + b"\x5d\xcf"
        go_on = b"\x50\x55\x89\xe5\xa1" + next_ + b"\x89\x46\x04\x5d\x58"
        count = b"\xff\x06" + counted + _every_second(b"\xf6\x06" + counted, go_on) + b"\xcf"
        trap = b"\x55\x89\xe5\x80\x66\x07\xfe\x5d\xcf"  # and byte [bp + 7], 0xfe: TF
    elif g.processor.long_mode:
        flip = b"\x80\x34\x25" + g.entry(page).to_bytes(4, "little") + b"\x02"
        flush = b"\x0f\x01\x3c\x25" + page.to_bytes(4, "little")
        fault = load + b"\x48\xc7\x04\x24" + start.to_bytes(4, "little")
        fault += b"\x48\xc7\x44\x24\x18" + STACK.to_bytes(4, "little") + flip + flush + b"\x48\xcf"
        code_flush = b"\x0f\x01\x3c\x25" + (case.code.origin | 0xFFF).to_bytes(4, "little")
        go_on = b"\x50\x8b\x04\x25" + next_ + b"\x48\x89\x44\x24\x08\x58"
        count = b"\xff\x04\x25" + counted + code_flush
        count += _every_second(b"\xf6\x04\x25" + counted, go_on) + b"\x48\xcf"
        trap = b"\x80\x64\x24\x11\xfe\x48\xcf"  # and byte [rsp + 17], 0xfe
    else:
        fault = load + b"\xc7\x04\x24" + start.to_bytes(4, "little")
        if g.root:
            fault += b"\x80\x35" + g.entry(page).to_bytes(4, "little") + b"\x02"
            fault += b"\x0f\x01\x3d" + page.to_bytes(4, "little")
        fault += b"\xcf"
        go_on = b"\x50\xa1" + next_ + b"\x89\x44\x24\x04\x58"
        count = b"\xff\x05" + counted + _every_second(b"\xf6\x05" + counted, go_on) + b"\xcf"
        trap = b"\x80\x64\x24\x09\xfe\xcf"  # and byte [esp + 9], 0xfe
    drop = b"\x48\x83\xc4\x08" if g.processor.long_mode else b"\x83\xc4\x04"
    places = {"fault": HANDLERS, "error": HANDLERS + 0x80, "count": HANDLERS + 0x100, "trap": HANDLERS + 0x180}
    for name, data in (("fault", fault), ("error", drop + fault), ("count", count), ("trap", trap)):
        g.memory.write(places[name], data)
    for vector in range(256):
        kind = "trap" if vector == 1 else "count" if vector >= 32 or vector == 3 else "fault"
        if kind == "fault" and vector in WITH_ERROR and bits != 16:
            kind = "error"
        if bits == 16:
            g.memory.write_u32(4 * vector, places[kind])
        elif g.processor.long_mode:
            g.set_gate64(vector, CODE64, places[kind], 0xEE, 1)
        else:
            g.set_gate32(vector, CODE32, places[kind], 0xEE)


def _every_second(test: bytes, then: bytes) -> bytes:
    """`then` if TEST of the counted byte with 1 gives 0."""
    return test + b"\x01\x75" + bytes((len(then),)) + then


def force_regions(g: Guest) -> int:
    """Have regions around all blocks that there are; how many were made."""
    tier = g.processor.hot
    assert tier is not None
    before, tier.always = tier.installed, True
    for block in g.processor.blocks.valid_blocks():
        if not block.regions and tier.installed < before + ENOUGH:
            tier.force(block)
    tier.always = False
    return tier.installed - before


def compare_case(case: Case, handlers: HandlerStore, instructions: int = 4000, always: bool = False) -> int:
    """Run a case on both machines; how many regions there were. Raises AssertionError at the first difference.

    Not `always`: the regions are made all at once, when the program has run for a while, so that they have loops.
    """
    choose = random.Random(f"{case.seed} stops")
    cold, hot = make_guest(case, handlers, "off"), make_guest(case, handlers, "always")
    tier = hot.processor.hot
    assert tier is not None
    tier.always = always
    forcing = choose.randrange(100, 800)
    done = 0
    while done < instructions:
        count = choose.choice((1, 2, 5, 30, 200, 700, 3000))
        if not always and done < forcing:
            count = min(count, forcing - done)
        elif not always and tier.installed < ENOUGH and choose.random() < 0.3:
            force_regions(hot)
        if always and tier.installed >= ENOUGH:
            tier.always = False
        place = cold.processor.rip
        before = read_state(cold.processor)
        first, second = cold.run(count), hot.run(count)
        lines = [] if first == second else [f"{first}, {second}"]
        a, b = read_state(cold.processor), read_state(hot.processor)
        if a != b:
            lines += a.differences(b)
        lines += memory_difference(cold.memory, hot.memory)
        if read_tlb(cold.processor) != read_tlb(hot.processor):
            lines.append("the modelled TLB")
        if lines:
            report = "\n".join(lines)
            raise AssertionError(
                f"seed {case.seed}, {case.mode}: after run({count}) from {place:#x}, instruction "
                f"{before.others['instructions']}, {tier.installed} regions:\n{report}\n{case.listing()}"
            )
        done = cold.processor.instructions
        if first.reason != "limit":
            if first.reason != "halted" or cold.processor.rip not in range(0x8000, 0xA000):
                break
            cold.processor.halted = hot.processor.halted = False
    return tier.installed
