"""Which descriptors segment registers take (APM vol. 2, 4.7, 4.8 and 12.3).

One statement for the processor and for the hypervisor, which switches tasks for its guests. Each function gives the
vector of the exception that a load raises, whose error code is the selector's index, or 0. `vector` is what a wrong
descriptor raises: #GP, or #TS where a task switch loads it.
"""

from __future__ import annotations

from trapgate.arch import vectors
from trapgate.arch.segments import (
    ATTRIBUTE_CODE,
    ATTRIBUTE_DC,
    ATTRIBUTE_P,
    ATTRIBUTE_RW,
    ATTRIBUTE_S,
    DPL_SHIFT,
    LDT,
    TYPE_MASK,
)

_CODE = ATTRIBUTE_S | ATTRIBUTE_CODE
_KIND, _WRITABLE_DATA = _CODE | ATTRIBUTE_RW, ATTRIBUTE_S | ATTRIBUTE_RW


def data_fault(selector: int, attributes: int, cpl: int, vector: int) -> int:
    """DS, ES, FS or GS: data, or code that can be read; not conforming, CPL and RPL at most the DPL (4.10.1)."""
    is_code = attributes & ATTRIBUTE_CODE
    if not attributes & ATTRIBUTE_S or (is_code and not attributes & ATTRIBUTE_RW):
        return vector
    checked = not is_code or not attributes & ATTRIBUTE_DC
    if checked and max(cpl, selector & 3) > attributes >> DPL_SHIFT & 3:
        return vector
    return 0 if attributes & ATTRIBUTE_P else vectors.NP


def stack_fault(selector: int, attributes: int, cpl: int, vector: int) -> int:
    """SS: data that can be written, RPL and DPL equal to the CPL (4.10.2)."""
    if attributes & _KIND != _WRITABLE_DATA or selector & 3 != cpl or attributes >> DPL_SHIFT & 3 != cpl:
        return vector
    return 0 if attributes & ATTRIBUTE_P else vectors.SS


def task_code_fault(selector: int, attributes: int) -> int:
    """CS of a new task: code, whose DPL is the RPL, or at most that where it is conforming (12.3)."""
    dpl, rpl = attributes >> DPL_SHIFT & 3, selector & 3
    wrong = dpl > rpl if attributes & ATTRIBUTE_DC else dpl != rpl
    if attributes & _CODE != _CODE or wrong:
        return vectors.TS
    return 0 if attributes & ATTRIBUTE_P else vectors.NP


def task_ldt_fault(attributes: int) -> int:
    """LDTR of a new task: an LDT that is present."""
    return 0 if attributes & TYPE_MASK == LDT and attributes & ATTRIBUTE_P else vectors.TS
