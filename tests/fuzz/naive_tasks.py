"""The naive model's task switch: APM vol. 2, 12.2 to 12.4."""

from __future__ import annotations

from .naive_transfer import DB, GP, NP, NT, TS, VM, Naive, NaiveFault, Segment

#: By width: lowest limit, offset of EIP, bytes of a register, segment registers, offset of LDTR.
_LAYOUTS = {False: (0x2B, 14, 2, 4, 42), True: (0x67, 32, 4, 6, 96)}


def switch(n: Naive, selector: int, how: str, external: int, error: int | None) -> None:
    """`how` is jump, call, event or return. `n.switched` is set from where faults belong to the new task on."""
    back = how == "return"
    vector, about = TS if back else GP, selector & 0xFFFC | external
    if selector & 4:
        raise NaiveFault(vector, about)
    e = n.entry(selector, vector, external)
    if e.s or e.type not in ((3, 11) if back else (1, 9)):
        raise NaiveFault(vector, about)
    if not e.present:
        raise NaiveFault(NP, about)
    wide = e.type & 8 != 0
    lowest, start, size, count, ldt_at = _LAYOUTS[wide]
    if e.limit < lowest:
        raise NaiveFault(TS, about)
    new = [n.read(e.base + start + size * i, size) for i in range(10)]
    selectors = [n.read(e.base + start + size * (10 + i), 2) for i in range(count)]
    ldt, trap = n.read(e.base + ldt_at, 2), wide and n.read(e.base + 100, 2) & 1
    # The old task.
    old_place = n.gdt[0] + (n.tr.selector & 0xFFF8) + 5
    _, old_start, old_size, old_count, _ = _LAYOUTS[n.tr.rights & 8 != 0]
    values = [n.ip, n.flags & ~NT if back else n.flags, *n.registers[:4], n.sp, *n.registers[5:]]
    for i, value in enumerate(values):
        n.write(n.tr.base + old_start + old_size * i, old_size, value & (1 << 8 * old_size) - 1)
    for i in range(old_count):
        n.write(n.tr.base + old_start + old_size * (10 + i), 2, n.seg[i].selector)
    if how in ("jump", "return"):
        n.write(old_place, 1, n.read(old_place, 1) & ~2)
    if not back:
        n.write(e.place + 5, 1, e.value >> 40 & 0xFF | 2)
    if how in ("call", "event"):
        n.write(e.base, 2, n.tr.selector)
    n.tr = e.loaded(selector)
    n.tr.rights = e.value >> 40 & 0xFF | 2
    # The new one.
    n.switched = True
    n.ip, n.flags = new[0], new[1] & 0x3F7FD5 | 2 | (NT if how in ("call", "event") else 0)
    n.registers = [value | (0 if wide else 0xFFFF_0000) for value in new[2:]]
    n.sp = n.registers[4]
    n.seg = [Segment(s) for s in selectors] + [Segment() for _ in range(6 - count)]
    n.ldt = Segment(ldt)
    n.cpl = 3 if n.flags & VM else selectors[1] & 3
    try:
        _load(n, ldt, selectors)
        if error is not None:
            width = 4 if wide else 2
            n._set_sp(n._push([error], width, n.sp, n.stack_bits, n.seg[2], 0, n.cpl), n.stack_bits)
    except NaiveFault as fault:
        if fault.vector != 14 and fault.error is not None:
            fault.error |= external
        raise
    if trap:
        raise NaiveFault(DB, None)


def _load(n: Naive, ldt: int, selectors: list[int]) -> None:
    if ldt > 3:
        if ldt & 4:
            raise NaiveFault(TS, ldt & 0xFFFC)
        e = n.entry(ldt, TS)
        if e.s or e.type != 2 or not e.present:
            raise NaiveFault(TS, ldt & 0xFFFC)
        n.ldt = e.loaded(ldt)
        n.ldt.rights &= ~1
    if n.flags & VM:
        n.seg = [Segment(s, s << 4, 0xFFFF, 0xF3) for s in (*selectors, 0, 0)][:6]
        return
    cs = selectors[1]
    if cs < 4:
        raise NaiveFault(TS, 0)
    e, rpl = n.entry(cs, TS), cs & 3
    if not e.code or (e.dpl > rpl if e.conforming else e.dpl != rpl):
        raise NaiveFault(TS, cs & 0xFFFC)
    if not e.present:
        raise NaiveFault(NP, cs & 0xFFFC)
    n.enter(e, cs, rpl, n.ip)
    n.seg[2] = n.stack_segment(selectors[2], rpl, TS)
    for number in (3, 0, 4, 5):
        selector = selectors[number] if number < len(selectors) else 0
        if selector > 3:
            n.load(number, selector, TS)
