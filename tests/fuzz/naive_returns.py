"""The naive model's returns and interrupts: APM vol. 3, RET (far), IRET and INT; vol. 2, 8.6 to 8.9."""

from __future__ import annotations

from .naive_transfer import DB, DF, GP, IF, NP, NT, PF, RF, SS, TF, TS, VM, Naive, NaiveFault, Segment, canonical

_CONTRIBUTORY = frozenset((0, TS, NP, SS, GP))
_WITH_ERROR = frozenset((DF, TS, NP, SS, GP, PF, 17))
#: Flags of a 16- and of a 32-bit image that IRET takes over at CPL 0 (IOPL and IF depend on more).
_ARITHMETIC = 0x8D5
VIF_VIP, IOPL = 3 << 19, 3 << 12


class TripleFault(Exception):
    """Shutdown."""


def return_far(n: Naive, size: int, released: int) -> None:
    """RETF with an operand size of `size` bytes."""
    offset, selector = n.peek(0, size), n.peek(size, size) & 0xFFFF
    if selector & 3 < n.cpl:
        raise NaiveFault(GP, selector & 0xFFFC)
    e = n.code_checks(selector, True)
    n.target(e, offset)
    if selector & 3 == n.cpl:
        bits = n.stack_bits
        n.enter(e, selector, n.cpl, offset)
        n._set_sp(n.sp + 2 * size + released, bits)
        return
    sp = n.peek(2 * size + released, size) + released
    ss = n.peek(3 * size + released, size) & 0xFFFF
    outward(n, e, selector, offset, sp, ss)


def outward(n, e, selector: int, offset: int, sp: int, ss: int) -> None:  # type: ignore[no-untyped-def]
    """To the stack that was on the stack."""
    old, rpl = n.cpl, selector & 3
    if ss < 4 and n.long_mode and e.long and rpl != 3 and ss == rpl:
        stack = Segment(ss)
    elif ss < 4:
        raise NaiveFault(GP, 0)
    else:
        entry, error = n.entry(ss), ss & 0xFFFC
        if not entry.writable or ss & 3 != rpl or entry.dpl != rpl:
            raise NaiveFault(GP, error)
        if not entry.present:
            raise NaiveFault(SS, error)
        n.accessed(entry)
        stack = entry.loaded(ss)
    n.enter(e, selector, rpl, offset)
    n.seg[2] = stack
    n._set_sp(sp, n.stack_bits)
    if rpl > old:
        for number in (0, 3, 4, 5):
            s = n.seg[number]
            conforming = s.rights & 0x1C == 0x1C
            if s.rights & 0x80 and not conforming and s.rights >> 5 & 3 < rpl:
                n.seg[number] = Segment(0, s.base if n.long_mode else 0)


def interrupt_return(n: Naive, size: int) -> None:
    """IRET, IRETD, IRETQ in protected mode."""
    if n.flags & NT:
        if n.long_mode:
            raise NaiveFault(GP, 0)
        n.switch(n.tss_field(0, 2), "return")
        return
    offset, selector, flags = n.peek(0, size), n.peek(size, size) & 0xFFFF, n.peek(2 * size, size)
    if flags & VM and n.cpl == 0 and not n.long_mode and size == 4:
        sp, ss, *others = (n.peek(12 + 4 * i, 4) for i in range(6))
        n.flags = flags | 2
        for number, value in ((1, selector), (2, ss), (0, others[0]), (3, others[1]), (4, others[2]), (5, others[3])):
            n.seg[number] = Segment(value & 0xFFFF, (value & 0xFFFF) << 4, 0xFFFF, 0xF3)
        n.cpl, n.ip, n.sp = 3, offset & 0xFFFF, sp
        return
    if selector & 3 < n.cpl:
        raise NaiveFault(GP, selector & 0xFFFC)
    e = n.code_checks(selector, True)
    n.target(e, offset)
    old_cpl = n.cpl
    if selector & 3 > n.cpl or n.bits64:
        outward(n, e, selector, offset, n.peek(3 * size, size), n.peek(4 * size, size) & 0xFFFF)
    else:
        bits = n.stack_bits
        n.enter(e, selector, n.cpl, offset)
        n._set_sp(n.sp + 3 * size, bits)
    mask = _ARITHMETIC | TF | 1 << 10 | NT
    if size > 2:
        mask |= RF | 1 << 18 | 1 << 21
    if old_cpl == 0:
        mask |= IOPL | IF | (VIF_VIP if size > 2 else 0)
    elif old_cpl <= n.flags >> 12 & 3:
        mask |= IF
    n.flags = n.flags & ~mask | flags & mask


def deliver(n: Naive, vector: int, error: int | None, software: bool, fault: bool) -> None:
    """Through the IDT. `fault`: the image of the flags has RF set."""
    external = 0 if software else 1
    size = 16 if n.long_mode else 8
    wrong = vector * 8 + 2 + external
    if vector * size + size - 1 > n.idt[1]:
        raise NaiveFault(GP, wrong)
    gate = n.read(n.idt[0] + vector * size, size)
    kind, dpl, present = gate >> 40 & 31, gate >> 45 & 3, gate >> 47 & 1
    if kind not in ((14, 15) if n.long_mode else (5, 6, 7, 14, 15)):
        raise NaiveFault(GP, wrong)
    if software and dpl < n.cpl:
        raise NaiveFault(GP, vector * 8 + 2)
    if not present:
        raise NaiveFault(NP, wrong)
    selector = gate >> 16 & 0xFFFF
    if kind == 5:
        if selector & 4:
            raise NaiveFault(GP, selector & 0xFFFC | external)
        if fault:
            n.flags |= RF
        n.switch(selector, "event", external, error)
        return
    offset = gate & 0xFFFF | (gate >> 32 & 0xFFFF_0000 if kind > 7 else 0)
    if n.long_mode:
        offset |= (gate >> 64 & 0xFFFF_FFFF) << 32
    if selector < 4:
        raise NaiveFault(GP, external)
    e, about = n.entry(selector, GP, external), selector & 0xFFFC | external
    if not e.code or e.dpl > n.cpl:
        raise NaiveFault(GP, about)
    if n.long_mode and (not e.long or e.big):
        # The order of this check and of the present bit is not stated.
        raise NaiveFault(GP, about) if e.present else NaiveFault(NP, about)
    if not e.present:
        raise NaiveFault(NP, about)
    inner = n.cpl if e.conforming else e.dpl
    flags = n.flags | RF if fault else n.flags
    back = [n.seg[1].selector, n.ip] + ([] if error is None else [error])
    if n.long_mode:
        ist = gate >> 32 & 7
        sp = n.sp
        if ist:
            sp = n.tss_field(36 + 8 * (ist - 1), 8, external)
        elif inner < n.cpl:
            sp = n.tss_field(4 + 8 * inner, 8, external)
        if not canonical(offset):
            raise NaiveFault(GP, external)
        words = [n.seg[2].selector, n.sp, flags, *back]
        sp = n._push(words, 8, sp & ~15, 64, Segment(), external, inner)
        changes = inner != n.cpl
        n.enter(e, selector, inner, offset)
        if changes:
            n.seg[2] = Segment(inner)
        n.sp = sp
    else:
        width = 4 if kind > 7 else 2
        virtual = bool(n.flags & VM)
        if virtual and inner != 0:
            raise NaiveFault(GP, about)
        words = [flags, *back]
        if inner < n.cpl:
            stack, sp = n.inner_stack(inner, external)
            words = [n.seg[2].selector, n.sp, *words]
            bits, about = 32 if stack.big else 16, stack.selector & 0xFFFC | external
        else:
            stack, sp, bits, about = n.seg[2], n.sp, n.stack_bits, external
        if offset > e.limit:
            raise NaiveFault(GP, external)
        sp = n._push(words, width, sp, bits, stack, about, inner)
        changes = inner < n.cpl
        n.enter(e, selector, inner, offset)
        if changes:
            n.seg[2] = stack
        n._set_sp(sp, bits)
    n.flags = flags & ~(TF | NT | RF | VM) & ~(IF if kind in (6, 14) else 0)


def deliver_exception(n: Naive, fault: NaiveFault) -> tuple[Naive, list[int]]:
    """The state in which some handler begins, and the vectors that were tried (8.2.9). Raises TripleFault."""
    tried = []
    while True:
        tried.append(fault.vector)
        attempt = n.copy()
        error = fault.error if fault.vector in _WITH_ERROR else None
        try:
            deliver(attempt, fault.vector, error, False, fault.vector != 1)
        except NaiveFault as second:
            if attempt.switched:
                n = attempt  # the fault belongs to the new task
            first = fault.vector
            if first == DF and second.vector != DB:  # the new task's T bit: a trap behind a switch that is done
                raise TripleFault from None
            both = first in _CONTRIBUTORY and second.vector in _CONTRIBUTORY
            of_page = first == PF and (second.vector in _CONTRIBUTORY or second.vector == PF)
            fault = NaiveFault(DF, 0) if both or of_page else second
            continue
        return attempt, tried
