"""What kernels do to system registers with every page fault and every change of the task, natively in 64-bit mode.

Reads of CR0, CR2, CR3 and CR4, and writes of CR3 (APM vol. 3, MOV CRn); null selectors, and at CPL 0 those of data
segments in the GDT, loaded into data segments (Linux clears the base of FS and GS with one of each); writes of the base
addresses of FS and GS (APM vol. 2, 4.5.3). All else is Python's (control_registers.py, segments.py).
"""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.msrs import MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE
from trapgate.arch.registers import FS, GS, RAX, RCX, RDX
from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.operand_tables import BASE_WRITE, CONTROL_READS, CONTROL_WRITES, SEGMENT_LOADS
from trapgate.isa.system.privilege import is_data, load_data, load_segment

_PLACES = {0: layout.CR0, 2: layout.CR2, 3: layout.CR3, 4: layout.CR4}


def _define_read(name: str, place: int) -> None:
    @semantics(name)
    def read(c: Context, destination: Operand) -> None:
        destination.write(c.field(place))


for _number, _name in CONTROL_READS.items():
    _define_read(_name, _PLACES[_number])


@semantics(CONTROL_WRITES[3], ends_block=True)
def mov_to_cr3(c: Context, source: Operand) -> None:
    """Flushes what is not global (APM vol. 2, 5.5.1); the next instruction is looked up anew."""
    value = source.read()
    c.plain_python_if((value >> 52).ne(0))  # #GP(0)
    c.set_field(layout.CR3, value)
    flush = c.emit.load_type("ptr", c.state_pointer(layout.FLUSH))
    c.emit.call_void(flush, [c.state, c.emit.constant(1, 64)])
    c.goto_address(c.next_ip())


def _define_segment_load(number: int, name: str) -> None:
    @semantics(name)
    def load(c: Context, source: Operand) -> None:
        """AMD keeps the base of FS and GS when a null selector is loaded (APM vol. 2, 4.5.3 and 4.8.3)."""
        e = c.emit
        selector = source.read().zext(64) & 0xFFFF
        is_null = (selector & ~3).eq(0)
        in_table = (selector & 4).eq(0) & (selector | 7).ule(c.field(layout.GDTR_LIMIT)) & c.field(layout.CPL).eq(0)
        c.plain_python_if((is_null | in_table) ^ 1)
        with e.when(is_null):
            base = c.field(layout.segment(number) + layout.SEGMENT_BASE) if number in (FS, GS) else 0
            load_segment(c, c.state, number, selector, base, 0, 0, -1, -1)
        with e.when(is_null ^ 1):
            descriptor = c.load_system(c.field(layout.GDTR_BASE) + (selector & 0xFFF8), 64)
            c.plain_python_if(is_data(descriptor, selector & 3) ^ 1)
            load_data(c, c.state, number, selector, descriptor)


for _number, _name in SEGMENT_LOADS.items():
    _define_segment_load(_number, _name)


@semantics(BASE_WRITE, ends_block=True)
def write_base(c: Context) -> None:
    """WRMSR of a base that is canonical; the next instruction finds the new one."""
    e = c.emit
    number = c.register(RCX, 32)
    value = c.register(RAX, 32).zext(64) | c.register(RDX, 32).zext(64) << 32
    places = {
        MSR_FS_BASE: layout.segment(FS) + layout.SEGMENT_BASE,
        MSR_GS_BASE: layout.segment(GS) + layout.SEGMENT_BASE,
        MSR_KERNEL_GS_BASE: layout.KERNEL_GS_BASE,
    }
    known = e.constant(0, 1)
    for msr in places:
        known = known | number.eq(msr - (1 << 32))
    sign = value.sar(47)
    canonical = sign.eq(0) | sign.eq(-1)
    c.plain_python_if((known & canonical) ^ 1)
    for msr, place in places.items():
        with e.when(number.eq(msr - (1 << 32))):
            c.set_field(place, value)
    c.goto_next()
