"""What x87 instructions leave to plain Python: reporting an exception while CR0.NE is clear.

The processor then asserts FERR and freezes until an external interrupt arrives, which a PC's board requests on IRQ 13
(APM vol. 2, 24593, 3.1.1 "Numeric Error (NE) Bit").
"""

from __future__ import annotations

import iced_x86 as iced

from trapgate.isa.processor import Processor, python_form


@python_form("x87_error")
def report_error(processor: Processor, instruction: iced.Instruction) -> None:
    """The work of every waiting x87 and MMX instruction that finds an exception pending and CR0.NE clear."""
    processor.report_x87_error()
