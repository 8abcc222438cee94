"""Everything of a processor that its guest or its user can see, in a form that two processors can be compared by."""

from __future__ import annotations

from typing import NamedTuple

from trapgate.arch import layout
from trapgate.arch.registers import GPR_NAMES, SEGMENT_NAMES
from trapgate.cpu import tlb
from trapgate.engine.processor import Processor

#: Bytes of the state block from one field to before another, without host addresses and what is only scratch.
_RANGES = (
    (layout.GPR, layout.ZERO + 8),
    (layout.KERNEL_GS_BASE, layout.PRIVILEGES_VALID),
    (layout.SEGMENTS, layout.SIMD_FLAGS),
    (layout.FPR, layout.HOST_MXCSR),
    (layout.COUNTERS, layout.COUNTERS + 8 * len(layout.COUNTER_NAMES)),
)
#: Names of single fields in them; what has none is named after its place.
_NAMES = {
    **{layout.gpr(i): name for i, name in enumerate(GPR_NAMES)},
    **{layout.fpr(i) + 8 * half: f"fpr{i}[{half}]" for i in range(8) for half in (0, 1)},
    **{layout.xmm(i) + 8 * half: f"xmm{i}[{half}]" for i in range(16) for half in (0, 1)},
    **{layout.selector(i): name for i, name in enumerate(SEGMENT_NAMES)},
    **{layout.segment(i) + 8 * k: f"{n}.{w}" for i, n in enumerate(SEGMENT_NAMES) for k, w in enumerate(
        ("base", "low", "high_read", "high_write"))},
    **{layout.counter(name): name for name in layout.COUNTER_NAMES},
    **{getattr(layout, n.upper()): n for n in ("cr0", "cr3", "cr4", "efer", "asid", "kernel_gs_base", "tsc_aux")},
    layout.MXCSR: "mxcsr",
}  # fmt: skip
#: Bytes of the modelled TLB and of the walker's caches, without the fast tables, which hold host addresses.
_TLB = (
    *((side.tags, side.heads) for side in (tlb.DATA, tlb.INSTRUCTION)),
    *(
        (side.next_small, side.l2_large + tlb.OPTERON_2007.l2_large * tlb.L2_ENTRY)
        for side in (tlb.DATA, tlb.INSTRUCTION)
    ),
    (tlb.PAGE_WALK_CACHE.tags, tlb.STAMP + 8),
)


class ProcessorState(NamedTuple):
    """`block`: parts of the state block; `others`: what is no field of it."""

    block: tuple[bytes, ...]
    others: dict[str, object]

    def differences(self, other: ProcessorState) -> list[str]:
        """One line for each difference: name, this value, the other."""
        lines = [
            f"{name}: {_text(value)}, {_text(other.others[name])}"
            for name, value in self.others.items()
            if value != other.others[name]
        ]
        for (start, _), mine, theirs in zip(_RANGES, self.block, other.block, strict=True):
            for place in range(0, len(mine), 8):
                a, b = mine[place : place + 8], theirs[place : place + 8]
                if a != b:
                    name = _NAMES.get(start + place, f"state block at {start + place:#x}")
                    lines.append(f"{name}: {int.from_bytes(a, 'little'):#x}, {int.from_bytes(b, 'little'):#x}")
        return lines


def _text(value: object) -> str:
    return f"{value:#x}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def read_state(processor: Processor) -> ProcessorState:
    """The state now. Changes nothing."""
    p, content = processor, processor.state.bytes
    others: dict[str, object] = {
        "instructions": p.instructions,
        "cycle": p.clock.now,
        "rip": p.rip,
        "rflags": p.rflags,
        "cpl": p.cpl,
        "cr2": p.cr2,
        "dr": tuple(p.dr),
        "gdtr": (p.gdtr_base, p.gdtr_limit),
        "idtr": (p.idtr_base, p.idtr_limit),
        "tr": (p.tr.selector, p.tr.base, p.tr.limit, p.tr.attributes),
        "ldtr": (p.ldtr.selector, p.ldtr.base, p.ldtr.limit, p.ldtr.attributes),
        "segments": tuple((s.selector, s.base, s.limit, s.attributes) for s in p.segments),
        "halted": p.halted,
        "interrupt shadow": p.shadow,
        "TSC": p.time_stamp(),
        "exceptions": dict(p.exception_counts),
        "interrupts": dict(p.interrupt_counts),
        "#VMEXITs": dict(p.exit_counts),
        "idle cycles": p.idle_cycles,
    }
    return ProcessorState(tuple(bytes(content[start:end]) for start, end in _RANGES), others)


def read_tlb(processor: Processor) -> tuple[bytes, ...]:
    """The modelled TLB and the walker's caches: entries, and what is replaced next."""
    content = processor.state.bytes
    return tuple(bytes(content[start:end]) for start, end in _TLB)
