"""One machine for many cases: between two of them only what has changed is put back."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from engine.harness import Guest
from trapgate.arch import layout
from trapgate.arch.cpuid import CpuProfile
from trapgate.cpu import tlb
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Stopped

from .memory import GuardedMemory

MEMORY_SIZE = 1 << 20
PAGE = 4096
_SIMPLE = (int, bool, str, float, type(None), tuple, frozenset)
#: Attributes of the processor that are caches, or that name other objects.
_CACHES = frozenset(("_mode", "_modes", "_translation", "_translations", "_decoders", "_zero"))
#: Fields of the state block that are the engine's, not the guest's: no case may change them.
_FIXED = (layout.ZERO, layout.RAM_BASE, layout.PAGE_KIND, layout.CODE_MAP, layout.PAGE_COUNT, layout.SLOW_ACCESS,
          layout.COMMIT, layout.FETCH_PAGE, layout.ON_DEVICE_READ, layout.ON_DEVICE_WRITE, layout.ON_CODE_WRITE)  # fmt: skip  # noqa: E501


class Snapshot:
    """A machine's state: the state block, the processor's plain attributes, RAM."""

    def __init__(self, machine: FuzzMachine) -> None:
        p = machine.processor
        self.block = bytes(p.state.bytes)
        self.plain = {k: v for k, v in vars(p).items() if isinstance(v, _SIMPLE) and k not in _CACHES}
        self.copied: dict[str, Any] = {k: v.copy() for k, v in vars(p).items() if isinstance(v, list | dict | deque)
                                       and k not in _CACHES and k not in ("segments", "forms")}  # fmt: skip
        self.segments = [(s.limit, s.attributes) for s in p.segments]
        self.system = [(s.selector, s.base, s.limit, s.attributes) for s in (p.ldtr, p.tr)]
        self.ram = np.frombuffer(bytes(machine.memory.view), np.uint64).reshape(-1, PAGE // 8)


class FuzzMachine(Guest):
    """A guest (tests/engine/harness.py) with 1 MB between guard areas that can be put back to a snapshot."""

    def __init__(self, handlers: HandlerStore, profile: CpuProfile) -> None:
        super().__init__(handlers, GuardedMemory(MEMORY_SIZE), profile)
        self._blank = Snapshot(self)
        self._ram = np.frombuffer(self.memory.view, np.uint64).reshape(-1, PAGE // 8)
        #: RAM as words.
        self.words = self._ram.reshape(-1)
        self._fast = np.frombuffer(self.processor.state.bytes, np.uint64)[tlb.DATA.fast >> 3 :][
            : 2 * tlb.FAST_ENTRIES * tlb.FAST_SIZE >> 3
        ].reshape(-1, tlb.FAST_SIZE >> 3)
        self._kinds = bytes(self.memory._kind)

    def blank(self) -> None:
        """The state after RESET#, with empty RAM."""
        self.restore(self._blank)
        from engine.harness import TABLES

        self._next_table = TABLES

    def restore(self, to: Snapshot) -> None:
        """Put the machine back."""
        p = self.processor
        p.state.bytes[:] = to.block
        attributes = vars(p)
        for name in [k for k, v in attributes.items() if isinstance(v, _SIMPLE) and k not in to.plain]:
            if name not in _CACHES:
                delattr(p, name)  # a class attribute has the value of before
        attributes.update(to.plain)
        attributes.update({name: value.copy() for name, value in to.copied.items()})
        for segment, (limit, rights) in zip(p.segments, to.segments, strict=True):
            segment.limit, segment.attributes = limit, rights
        for system, loaded in zip((p.ldtr, p.tr), to.system, strict=True):
            system.load(*loaded)
        for page in np.flatnonzero((self._ram != to.ram).any(axis=1)):
            self.memory.write(int(page) * PAGE, to.ram[page].tobytes())
        clock, control = self.clock, self.control
        clock.now = 0
        clock._heap.clear()
        control.request = None
        self.device.reads.clear()
        self.device.writes.clear()
        self.interrupt = 0x40
        p._rest = None
        p.mode_changed()

    def run_case(self, instructions: int, cycles: int) -> Stopped:
        """Run at most so many instructions, and cycles between two of them."""
        return self.processor.run(instructions, max_stall=cycles)

    def check(self) -> None:
        """Nothing of the engine has changed, and what native code may write through lies in RAM."""
        p = self.processor
        for offset in _FIXED:
            word = int.from_bytes(self._blank.block[offset : offset + 8], "little")
            assert p.q[offset >> 3] == word, (
                f"the engine's field at {offset:#x} is {p.q[offset >> 3]:#x}, not {word:#x}"
            )
        assert bytes(self.memory._kind) == self._kinds, "the array of page kinds has changed"
        empty = np.uint64((1 << 64) - 1)
        for tag in (self._fast[:, 0], self._fast[:, 1]):
            used = tag != empty
            physical = tag[used] + self._fast[used, 2] - np.uint64(self.memory.base)
            outside = physical[physical >= np.uint64(MEMORY_SIZE)]
            assert not outside.size, f"a fast entry leads to {int(outside[0]):#x}, which is not RAM"
