"""The whole state of a processor as plain values and bytes, and back again, exactly.

What a run's counts depend on is in it: registers, the modelled TLB and its order of replacement, the walker's caches,
counters, what waits to be delivered. What only makes the run fast is not: decoded code, regions of the hot tier, and
the fast tables in front of the modelled TLB, whose entries hits in the model make again without being counted.

A state can be put into another processor of the same profile, costs and model, whose RAM has the same content.
"""

from __future__ import annotations

from typing import Any

from trapgate.arch import layout
from trapgate.arch.registers import CS, DEBUG_CTL_BTF, DEBUG_CTL_LBR, MSR_DEBUG_CTL
from trapgate.cpu import tlb
from trapgate.cpu.state import SystemCallMsrs
from trapgate.cpu.svm.controls import Controls
from trapgate.cpu.svm.guest_state import Host
from trapgate.cpu.svm.intercepts import guest_forms, translated_forms
from trapgate.cpu.svm.world_switch import EXCHANGED
from trapgate.engine.native_core import NativeCore
from trapgate.engine.stepping import Stepping

Snapshot = dict[str, Any]

#: Words that hold host addresses and what somebody outside the guest has chosen, besides those that are set once for a
#: processor (`_kept_by_reset`).
_PLACES = (
    layout.DTLB, layout.ITLB, layout.JUMP_CACHE, layout.RAM_BASE, layout.PAGE_KIND, layout.CODE_MAP, layout.PAGE_COUNT,
    layout.SLOW_ACCESS, layout.COMMIT, layout.FETCH_PAGE, layout.FLUSH, layout.ON_DEVICE_READ, layout.ON_DEVICE_WRITE,
    layout.ON_CODE_WRITE, layout.ARENA, layout.SIDE_TABLE, layout.SEES_FAULTS, layout.EXIT_UOP, layout.PRIVILEGES_VALID,
    *range(layout.PRIVILEGES, layout.PRIVILEGES + 2 * layout.PRIVILEGE_SIZE, 8),
    # Two fields of 32 bits.
    layout.HOST_MXCSR & ~7, layout.HOST_FPU_CONTROL & ~7,
)  # fmt: skip
#: The other halves of those words, which are the guest's.
_HALVES = tuple(
    place for place in (layout.MXCSR, layout.FPU_CONTROL_MASKED) if place & ~7 in _PLACES
)  # fmt: skip
#: Which copies of VMCBs are good: after a restore none is, and VMRUN checks anew.
_TRUSTED = (layout.WORLD_CONTROLS_OF, layout.WORLD_STATE_OF)
#: Places of host addresses in the two copies of fields that world switches exchange.
_COPIED = tuple(
    copy + 8 * i
    for copy in (layout.WORLD_HOST, layout.WORLD_GUEST)
    for i, field in enumerate(EXCHANGED)
    if field in _PLACES
)
#: First byte and end of what is saved, in order: all but the fast tables and the lists of their entries.
RANGES = (
    (0, tlb.DATA.fast),
    (tlb.DATA.tags, tlb.DATA.heads),
    (tlb.DATA.next_small, tlb.INSTRUCTION.fast),
    (tlb.INSTRUCTION.tags, tlb.INSTRUCTION.heads),
    (tlb.INSTRUCTION.next_small, tlb.NEVER),
    (tlb.PAGE_WALK_CACHE.tags, tlb.STATE_SIZE),
)

#: Attributes with plain values; dicts and lists are copied.
ATTRIBUTES = (
    # Counts
    "instructions", "idle_cycles", "switch_cycles", "_event_cycles", "device_cycles", "interrupt_counts",
    "_exception_counts", "exit_counts", "_faults_taken",
    # Registers, and what waits
    "rip", "instruction_rip", "tsc_offset", "dr", "shadow", "shadow_place", "halted", "charged", "step_wanted",
    "debug_hits", "task_trap", "branch_taken", "_intr", "_nmi", "_reset_wanted",
    # SMM
    "smi_pending", "in_smm", "smbase", "ignne", "_nmi_was_blocked",
    # AMD-V
    "gif", "vm_cr", "hsave_pa", "svm_key", "in_guest", "left_guest", "vmcb", "delivering", "v_irq", "translated",
    "deprivileged", "_was_translated", "costs_as_translated", "interpreting", "trap_after_vmrun", "host_lbr",
    "_pause_left", "_pause_last", "_under_smm", "refusal", "stop_report",
)  # fmt: skip
_TUPLES = frozenset(("shadow_place", "host_lbr", "_under_smm"))
#: Attributes that follow from others, that belong to one run or to its user, or that only make it fast.
NOT_STATE = frozenset((
    "_acknowledge", "_callbacks", "_decoders", "_enter", "_exits", "_fast_context", "_forced", "_inside_cycles",
    "_kept_by_reset", "_limit", "_mode", "_modes", "_paused", "_pending_error", "_privileges", "_protect",
    "_python_forms", "_python_host", "_sample_at", "_saves_bytes", "_saves_next_rip", "_selected_cpl", "_stall_at",
    "_translate_code", "_translation", "_translations", "_zero", "apic", "before_write", "blocks", "breakpoints", "bus",
    "clock", "control", "costs", "expects_unmaskable", "forms", "guest_segments", "handlers", "hot", "intercepted",
    "_intercepted_inside", "_host_forms", "_forms_inside", "is_ram", "kept_guest", "last_instruction", "last_operation",
    "memory", "observer", "on_idle", "one_at_a_time", "own_segments", "_passing", "port_breakpoints", "profile",
    "ram", "ram_base", "ram_words", "records_branches", "redirected", "run_profile", "sees_ports", "seen_natives",
    "set_ferr", "steps_branches", "steps_left", "stored_segments", "watches_data",
))  # fmt: skip
#: Attributes that `save` takes in a form of their own.
SPECIAL = frozenset((
    "_msrs", "_recent_exceptions", "_rest", "controls", "host", "ldtr", "tr", "segments", "state", "q",
))  # fmt: skip


def save(processor: Stepping) -> Snapshot:
    """Everything but `block(processor)`, as plain values. Native code must not be running."""
    p = processor
    snapshot: Snapshot = {name: _plain(getattr(p, name)) for name in ATTRIBUTES}
    snapshot["msrs"] = dict(p.msrs)
    snapshot["recent_exceptions"] = [list(entry) for entry in p.recent_exceptions]
    snapshot["_exception_counts"], snapshot["_faults_taken"] = dict(p.exception_counts), p._faults_taken
    snapshot["ldtr"], snapshot["tr"] = (
        [table.selector, table.base, table.limit, table.attributes] for table in (p.ldtr, p.tr)
    )
    snapshot["code_unchecked"] = [segments[CS].unchecked for segments in (p.own_segments, p.guest_segments)]
    snapshot["guest_segments"] = p.segments is p.guest_segments
    controls: Controls | None = getattr(p, "controls", None)
    snapshot["controls"] = None if controls is None else {
        name: getattr(controls, name) for name in Controls.__slots__ if name != "natives"
    }  # fmt: skip
    host = p.host
    snapshot["host"] = None if host is None else {"rip": host.rip, "pat": host.pat}
    rest = p.rest
    snapshot["rest"] = None if rest is None else [rest[0].rip, rest[0].page, rest[1]]
    return snapshot


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return list(value)
    return dict(value) if isinstance(value, dict) else value


def block(processor: NativeCore) -> bytes:
    """The state block's part of the state: RANGES one after another, with 0 where host addresses are."""
    content = bytearray()
    for start, end in RANGES:
        content += processor.state.bytes[start:end]
    words = memoryview(content).cast("Q")
    halves = {place: processor.state.d[place >> 2] for place in _HALVES}
    for place in (*_PLACES, *processor._kept_by_reset, *_TRUSTED, *_COPIED):
        words[place >> 3] = 0
    doubles = memoryview(content).cast("I")
    for place, value in halves.items():
        doubles[place >> 2] = value
    return bytes(content)


def restore(processor: Stepping, snapshot: Snapshot, content: bytes) -> None:
    """Put back what `save` and `block` gave; the clock, RAM and the board are back already."""
    p, state = processor, processor.state
    p.native_reset_fast(state.address)
    _restore_block(p, content)
    for name in ATTRIBUTES:
        value = snapshot[name]
        if name in _TUPLES:
            value = None if value is None else tuple(value)
        setattr(p, name, _plain(value) if isinstance(value, list | dict) else value)
    p.msrs = SystemCallMsrs(state, snapshot["msrs"])
    p._recent_exceptions.clear()
    p._recent_exceptions.extend(tuple(entry) for entry in snapshot["recent_exceptions"])
    p.ldtr.load(*snapshot["ldtr"])
    p.tr.load(*snapshot["tr"])
    for segments, unchecked in zip((p.own_segments, p.guest_segments), snapshot["code_unchecked"], strict=True):
        segments[CS].unchecked = unchecked
    p.segments = p.guest_segments if snapshot["guest_segments"] else p.own_segments
    _restore_guest(p, snapshot)
    # What follows from the rest.
    p.q[layout.KNOWN_FAULT >> 3] = 0
    p.breakpoints_changed()
    control = p.msrs.get(MSR_DEBUG_CTL, 0)
    p.records_branches, p.steps_branches = bool(control & DEBUG_CTL_LBR), bool(control & DEBUG_CTL_BTF)
    p.pending_changed()
    _forget_mode(p)
    p._rest = None
    if snapshot["rest"] is not None:
        p.rest_of_block(*snapshot["rest"])


def _restore_block(p: NativeCore, content: bytes) -> None:
    q, d = p.q, p.state.d
    kept = {place: q[place >> 3] for place in (*_PLACES, *p._kept_by_reset)}
    halves = {place: int.from_bytes(content[place : place + 4], "little") for place in _HALVES}
    done = 0
    for start, end in RANGES:
        p.state.bytes[start:end] = content[done : done + end - start]
        done += end - start
    for place, value in kept.items():
        q[place >> 3] = value
    for place, value in halves.items():
        d[place >> 2] = value


def _restore_guest(p: Stepping, snapshot: Snapshot) -> None:
    """The guest of AMD-V that runs or has run last, and its host."""
    p.kept_guest, p.stored_segments = None, -1
    fields = snapshot["controls"]
    if fields is not None:
        controls: Controls = Controls.__new__(Controls)
        for name, value in fields.items():
            setattr(controls, name, value)
        controls.natives = None
        p.controls = controls
    host = snapshot["host"]
    if host is None:
        p.host = None
    else:
        p.host = Host.__new__(Host)
        p.host.segments, p.host.rip, p.host.pat, p.host.mode = p.own_segments, host["rip"], host["pat"], None
    # Instructions are the guest's or the host's; hooks of the present user stay (api/hooks.py).
    own = p._host_forms if p.forms is p._forms_inside and p._host_forms else p.forms
    if snapshot["in_guest"]:
        p._host_forms = own
        make = translated_forms if p.translated else guest_forms
        p.forms = p._forms_inside = make(own)
    elif not p.python_host:
        p.forms = own
    p.intercepted = p.seen_natives
    p.intercepts_changed()


def _forget_mode(p: Stepping) -> None:
    """Work out anew which code runs, and how."""
    p._mode = p._translation = p._privileges = None
    p.q[layout.PRIVILEGES_VALID >> 3] = 0
    p._selected_cpl = p.q[layout.CPL >> 3]
    p._fast_context = ()
    p._forced = 0
    p.redirected = True
    p._set_zero(p.clock.now)
