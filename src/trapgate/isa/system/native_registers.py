"""Moves between general and control registers at CPL 0 in 64-bit mode as native code (APM vol. 3, MOV CRn).

Reads of CR0, CR2, CR3 and CR4, and writes of CR3, which happen with every page fault and every change of the address
space. The other writes change modes, and are Python's (control_registers.py).
"""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.operand_tables import CONTROL_READS, CONTROL_WRITES

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
