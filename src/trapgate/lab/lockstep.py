"""Two machines with one guest, one with the hot tier and one without, run side by side and compared as they go."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

from trapgate.arch.cpuid import PROFILES
from trapgate.arch.registers import CS
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.boards.pc import PcConfig
from trapgate.engine.processor import Stopped
from trapgate.lab.bare import usual_handlers
from trapgate.lab.console import ProgressCallback
from trapgate.lab.displays import board_vga, with_vga
from trapgate.lab.errors import ConflictingOptions
from trapgate.lab.guest import Guest, find_guest
from trapgate.lab.options import RunOptions
from trapgate.lab.processor_report import code_lines, describe_processor, read_code
from trapgate.lab.processor_state import read_state, read_tlb
from trapgate.machine.console import MemoryConsole
from trapgate.machine.memory import PhysicalMemory

#: Instructions between two comparisons.
DEFAULT_STRIDE = 10_000
#: Comparisons between two of all memory and of the modelled TLB, which take 0.1 s or so.
STRIDES_BETWEEN_MEMORY = 1000
#: Bytes of code that are shown: as many instructions as code_lines shows, each as long as one can be.
_CODE = 6 * 15
#: Bytes of memory that are shown around the first difference.
_AROUND = 16
STAGE = "comparing, million instructions"


@dataclass(frozen=True, slots=True)
class Lockstep:
    """What came of it. `difference` is empty when both machines did the same to the end."""

    description: str
    end: str
    instructions: int
    cycles: int
    comparisons: int
    #: Regions of the hot tier that were in use, and those of them that were dropped.
    installed: int
    dropped: int
    console: bytes = field(repr=False)
    difference: str = ""


class _Pair:
    """The two machines, and where they were equal last."""

    def __init__(self, options: RunOptions, guest: Guest, hot: str, progress: ProgressCallback) -> None:
        handlers = usual_handlers(progress)

        def machine(setting: str) -> BareMachine:
            config = MachineConfig(
                memory_size=options.memory_size,
                profile=PROFILES[options.processor],
                costs=options.costs,
                hot=setting,
                code_size=options.code_size if setting == hot else None,
                board=PcConfig(vga=board_vga(options)),
            )
            made = BareMachine(config, self.consoles[setting], handlers)
            # Blocks that earlier runs have decoded are part of what is compared.
            made.processor.blocks.keeps_templates = setting == hot
            made.load(guest.image)
            return made

        self.consoles = {"off": MemoryConsole(), hot: MemoryConsole()}
        self.cold, self.hot = machine("off"), machine(hot)
        self._names = ("without the hot tier", f"with the hot tier {hot}")
        self._output = list(self.consoles.values())
        self._note()

    def _note(self) -> None:
        processor = self.cold.processor
        self._instructions = processor.instructions
        linear = processor.rip + (0 if processor.bits == 64 else processor.segments[CS].base)
        self._code = code_lines(read_code(processor, linear, _CODE), processor.bits, processor.rip)

    def run(self, count: int) -> tuple[Stopped, str]:
        """Run both on, until one of them has done `count` instructions: how the first stopped, and what differs."""
        first, second = (machine.run(count) for machine in (self.cold, self.hot))
        lines = self._compare(first, second)
        if not lines:
            self._note()
            return first, ""
        return first, self._describe(lines)

    def _compare(self, first: Stopped, second: Stopped) -> list[str]:
        lines: list[str] = []
        if first.reason != second.reason or self.cold.control.request != self.hot.control.request:
            ends = (f"{s.reason} {m.control.request or ''}" for s, m in ((first, self.cold), (second, self.hot)))
            lines.append("end of the run: " + ", ".join(ends))
        if first.report != second.report:
            lines.append(f"report: {first.report!r}, {second.report!r}")
        cold, hot = (read_state(machine.processor) for machine in (self.cold, self.hot))
        if cold != hot:
            lines += cold.differences(hot)
        a, b = (output.data for output in self._output)
        if len(a) != len(b):
            lines.append(f"bytes on the console: {len(a)}, {len(b)}")
        return lines

    def compare_all(self) -> str:
        """What differs in memory, on the console and in the modelled TLB."""
        lines = memory_difference(self.cold.memory, self.hot.memory)
        a, b = (output.data for output in self._output)
        if a != b:
            place = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            lines.append(f"the console from byte {place} on: {bytes(a[place:][:40])!r}, {bytes(b[place:][:40])!r}")
        if read_tlb(self.cold.processor) != read_tlb(self.hot.processor):
            lines.append("entries of the modelled TLB")
        return self._describe(lines) if lines else ""

    def _describe(self, lines: list[str]) -> str:
        parts = [
            f"the machines differ ({', '.join(self._names)}):",
            *(f"  {line}" for line in lines),
            f"they were equal after {self._instructions} instructions, before this code:",
            *self._code,
        ]
        for name, machine in zip(self._names, (self.cold, self.hot), strict=True):
            parts += [f"{name}:", describe_processor(machine.processor)]
        return "\n".join(parts)


def memory_difference(a: PhysicalMemory, b: PhysicalMemory) -> list[str]:
    """Where the contents of two memories of one size first differ, in lines: guest-physical address, bytes of each."""
    compare = ctypes.CDLL(None).memcmp
    compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    for part in a.ranges():
        start, size = part.start, len(part)
        if not compare(a.base + start, b.base + start, size):
            continue
        while size > 1:
            half = size // 2
            if not compare(a.base + start, b.base + start, half):
                start += half
                half = size - half
            size = half
        content = (memory.view[start : start + _AROUND].hex(" ") for memory in (a, b))
        return [f"memory from guest-physical {start:#x} on: {', '.join(content)}"]
    return []


def run_lockstep(
    options: RunOptions,
    hot: str = "auto",
    every: int = DEFAULT_STRIDE,
    skip: int = 0,
    progress: ProgressCallback = lambda stage, done, total: None,
) -> Lockstep:
    """Run the guest of `options` on two machines to its end, or to the first difference.

    `hot` is the second machine's setting ("auto" or "always"); they are compared every `every` instructions (where
    the block ends), from `skip` instructions on. Raises RunError, FirmwareError and UnknownTierSetting.
    """
    if options.displays:
        raise ConflictingOptions("--display with one machine", "it with two", "leave it out")
    guest = find_guest(options, progress)
    options = with_vga(options, guest.image)
    pair = _Pair(options, guest, hot, progress)
    processor, most = pair.cold.processor, options.max_instructions
    comparisons, difference = 0, ""
    count = skip or every
    while True:
        if most is not None:
            count = min(count, most - processor.instructions)
        stopped, difference = pair.run(count)
        comparisons += 1
        count = every
        going = stopped.reason == "limit" and (most is None or processor.instructions < most)
        if not difference and (not going or comparisons % STRIDES_BETWEEN_MEMORY == 0):
            difference = pair.compare_all()
        if difference or not going:
            break
        if comparisons % 100 == 0:
            progress(STAGE, processor.instructions // 1_000_000, (most or 0) // 1_000_000)
    progress(STAGE, 1, 1)
    tier = pair.hot.processor.hot
    assert tier is not None
    request = pair.cold.control.request
    return Lockstep(
        guest.description,
        stopped.reason if request is None else str(request),
        processor.instructions,
        pair.cold.clock.now,
        comparisons,
        tier.installed,
        tier.dropped,
        bytes(pair.consoles["off"].data),
        difference,
    )
