"""The processor as plain Python forms of instructions see it, and their register.

A Python form is a function `f(processor, instruction)`; `instruction` is iced-x86's. When it is called, `rip` is that
of the next instruction; a raised Fault makes the run loop restore it. Registered with @python_form("name"): the
mnemonic in lower case, or the name that isa/decode.py gives special cases (mov_cr, jmp_far, cli_python ...).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import iced_x86 as iced

from trapgate.arch.costs import Costs
from trapgate.arch.cpuid import CpuProfile


class Segment(Protocol):
    """A segment register with its hidden part (see cpu/state.py)."""

    selector: int
    limit: int
    attributes: int

    @property
    def base(self) -> int: ...
    @base.setter
    def base(self, value: int) -> None: ...
    def load(self, selector: int, base: int, limit: int, attributes: int) -> None: ...


class Table(Protocol):
    """LDTR or TR."""

    selector: int
    base: int
    limit: int
    attributes: int

    def load(self, selector: int, base: int, limit: int, attributes: int) -> None: ...


class Processor(Protocol):
    """What a Python form may use. Addresses are linear unless they say otherwise; widths are in bits, sizes in
    bytes."""

    profile: CpuProfile
    costs: Costs
    rip: int
    #: rip of the instruction itself.
    instruction_rip: int
    segments: list[Any]
    ldtr: Any
    tr: Any
    idtr_base: int
    idtr_limit: int
    cr2: int
    dr: list[int]
    shadow: bool
    halted: bool

    @property
    def gdtr_base(self) -> int: ...
    @gdtr_base.setter
    def gdtr_base(self, value: int) -> None: ...
    @property
    def gdtr_limit(self) -> int: ...
    @gdtr_limit.setter
    def gdtr_limit(self, value: int) -> None: ...
    @property
    def bits(self) -> int:
        """16, 32 or 64: the code segment's size."""

    @property
    def cpl(self) -> int: ...
    @property
    def real_mode(self) -> bool: ...
    @property
    def virtual8086(self) -> bool: ...
    @property
    def long_mode(self) -> bool:
        """EFER.LMA."""

    @property
    def stack_bits(self) -> int: ...
    @property
    def cr0(self) -> int: ...
    @property
    def cr3(self) -> int: ...
    @property
    def cr4(self) -> int: ...
    @property
    def efer(self) -> int: ...
    @property
    def rflags(self) -> int: ...
    @rflags.setter
    def rflags(self, value: int) -> None: ...

    def fault(self, vector: int, error: int | None = None) -> NoReturn:
        """Raise an exception of the guest."""

    def unimplemented(self, what: str) -> NoReturn:
        """Stop the run: this exists on the modelled processor and not here yet."""

    def register(self, number: int, width: int) -> int: ...
    def set_register(self, number: int, width: int, value: int) -> None: ...
    def operand(self, instruction: iced.Instruction, index: int) -> int:
        """Read an operand (register, memory, immediate)."""

    def set_operand(self, instruction: iced.Instruction, index: int, value: int) -> None: ...
    def operand_bits(self, instruction: iced.Instruction, index: int) -> int: ...
    def memory_operand(self, instruction: iced.Instruction) -> tuple[int, int]:
        """(segment number, offset) of the memory operand."""

    def read_segment(self, segment: int, offset: int, size: int) -> int:
        """Read through a segment at the current privilege, limit and rights checked."""

    def write_segment(self, segment: int, offset: int, size: int, value: int) -> None: ...
    def probe_segment(self, segment: int, offset: int, size: int) -> None:
        """Raise the fault that a write through a segment would, without writing."""

    def read_system(self, linear: int, size: int) -> int:
        """Read as the processor itself does (descriptor tables, TSS): supervisor privilege."""

    def write_system(self, linear: int, size: int, value: int) -> None: ...
    def push(self, width: int, value: int) -> None: ...
    def pop(self, width: int) -> int: ...
    def stack_read(self, offset: int, width: int) -> int:
        """Read the stack at rSP + offset."""

    def add_to_stack_pointer(self, amount: int) -> None: ...
    def jump(self, rip: int) -> None:
        """Go on at `rip` in the current code segment, checked against its limit or for being canonical."""

    def set_cr0(self, value: int) -> None: ...
    def set_cr3(self, value: int) -> None: ...
    def set_cr4(self, value: int) -> None: ...
    def set_efer(self, value: int) -> None: ...
    def state_field(self, offset: int) -> int: ...
    def set_state_field(self, offset: int, value: int) -> None: ...
    def set_state_bytes(self, offset: int, value: bytes) -> None:
        """Write bytes of the state block (arch/layout.py)."""

    @property
    def mxcsr(self) -> int: ...
    @mxcsr.setter
    def mxcsr(self, value: int) -> None: ...
    def write_dr(self, number: int, value: int) -> None:
        """Write DR0 to DR3, DR6 or DR7."""

    def instruction_breakpoint(self) -> None:
        """#DB if an instruction breakpoint is at the instruction's address and RF is clear."""

    @property
    def x87_error_waits(self) -> bool:
        """An x87 exception is pending, and CR0.NE is clear."""

    def report_x87_error(self) -> None:
        """Assert FERR# and wait, before the instruction, for an interrupt."""

    def leave_smm(self) -> None:
        """RSM."""

    def is_vmcb_page(self, place: int) -> bool:
        """Whether a VMCB can lie at host-physical `place`."""

    def vmrun(self, place: int) -> None:
        """Enter the guest of the VMCB at `place`; after it `rip` is the guest's, or the next one if it was refused."""

    def vmload(self, place: int) -> None: ...
    def vmsave(self, place: int) -> None: ...
    def set_gif(self, value: bool) -> None:
        """STGI, CLGI."""

    def flush_page_of(self, linear: int, asid: int) -> None:
        """INVLPGA."""

    def mode_changed(self) -> None:
        """CS, CPL, or a control register that code depends on has changed."""

    @property
    def traps_each_turn(self) -> bool:
        """Whether a repeated string instruction may raise #DB behind each of its turns: TF, or a breakpoint for data or
        ports (APM vol. 2, 13.1.4)."""
        ...

    def refetch(self) -> None:
        """The translation of code addresses may have changed."""

    def flush_page(self, linear: int) -> None: ...
    def load_data_segment(self, number: int, selector: int) -> None:
        """MOV, POP, LDS ... into ES, SS, DS, FS, GS, with the mode's checks."""

    def load_flat_code(self, selector: int, cpl: int, long: bool) -> None:
        """CS as SYSCALL and SYSENTER load it: flat, without looking at a descriptor."""

    def load_flat_stack(self, selector: int, cpl: int) -> None:
        """SS as SYSCALL and SYSENTER load it."""

    def far_jump(self, selector: int, offset: int, width: int) -> None: ...
    def far_call(self, selector: int, offset: int, width: int) -> None: ...
    def far_return(self, width: int, extra: int) -> None: ...
    def interrupt_return(self, width: int) -> None: ...
    def software_interrupt(self, vector: int, sensitive: bool = True) -> None:
        """INT n, which depends on IOPL in virtual-8086 mode (`sensitive`), INT3 and INTO, which do not."""

    def trap(self, vector: int) -> None:
        """INT1: an exception that comes after the instruction."""

    def range_exceeded(self) -> NoReturn:
        """#BR of BOUND."""

    def read_descriptor(self, selector: int, vector: int = 13) -> tuple[int, int]:
        """(descriptor as 64 bits, its linear address)."""

    def check_io(self, port: int, size: int) -> None:
        """#GP(0) unless the current privilege or the TSS's bitmap allows the ports."""

    def read_port(self, port: int, size: int) -> int: ...
    def write_port(self, port: int, size: int, value: int) -> None: ...
    def read_port_run(self, port: int, size: int, segment: int, offset: int, count: int) -> int:
        """Carry out at most `count` turns of INS upwards from `offset`, in the page of the element before them, as far
        as the device does several at once; how many. Registers and time are the caller's."""

    def write_port_run(self, port: int, size: int, segment: int, offset: int, count: int) -> int:
        """The same for OUTS."""

    def read_msr(self, number: int) -> int: ...
    def write_msr(self, number: int, value: int) -> None: ...
    def read_tpr(self) -> int: ...
    def write_tpr(self, value: int) -> None: ...
    def time_stamp(self) -> int: ...
    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]: ...
    def charge_device(self, cycles: int) -> None:
        """Let the modelled time of an access to a device pass."""

    def charge(self, cycles: int) -> None:
        """Let modelled time pass."""


PythonForm = Callable[[Processor, iced.Instruction], None]
PYTHON_FORMS: dict[str, PythonForm] = {}


def python_form(*names: str) -> Callable[[PythonForm], PythonForm]:
    """Register the plain Python form of operations."""

    def register(function: PythonForm) -> PythonForm:
        for name in names:
            if name in PYTHON_FORMS:
                raise ValueError(f"{name} has two Python forms")
            PYTHON_FORMS[name] = function
        return function

    return register
