"""The machine that a program drives."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from trapgate.api import checks
from trapgate.api.accesses import MemoryAccess
from trapgate.api.backtrace import Frame, Inspector, Symbols
from trapgate.api.booting import PathLike, find_image
from trapgate.api.console import Console, Pattern
from trapgate.api.devices import MappedDevice, MemoryAdapter, PortAdapter, PortDevice
from trapgate.api.errors import (
    AlreadyBooted,
    InvalidArgument,
    NotBooted,
    UnexpectedEnd,
    UnknownCpu,
)
from trapgate.api.events import ExceptionEvent
from trapgate.api.hooks import (
    ExceptionFunction,
    Hook,
    Hooks,
    InstructionFunction,
    InterruptFunction,
    MemoryFunction,
    PortFunction,
)
from trapgate.api.memory import Memory, VirtualMemory
from trapgate.api.registers import Registers
from trapgate.api.results import (
    AddressReached,
    BreakpointHit,
    ConsoleMatch,
    DeadlineReached,
    ExceptionTaken,
    GuestExited,
    Halted,
    PoweredOff,
    ResetRequested,
    Result,
    StepsDone,
    StopRequested,
    TripleFault,
    Unimplemented,
    WatchpointHit,
)
from trapgate.api.sizes import memory_size
from trapgate.api.states import SavedStates
from trapgate.api.trace import TraceOptions, Tracer
from trapgate.api.watch import Watcher, Watchpoint
from trapgate.arch.cpuid import PROFILES
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.boards.pc import PcConfig
from trapgate.engine.handlers import HandlerStore
from trapgate.engine.processor import Stopped
from trapgate.firmware.image import BootImage
from trapgate.lab.console import ProgressCallback
from trapgate.lab.statistics import Statistics, read_statistics
from trapgate.machine.bus import PORTS
from trapgate.machine.control import GuestExit, PowerOff, Reset, UserQuit
from trapgate.machine.device import IrqLine
from trapgate.machine.errors import MappingConflict

#: A trace's last instructions to skip are counted one by one: more than a block has.
NATIVE_SKIP = 64


_native_code: HandlerStore | None = None


def native_code(progress: ProgressCallback = lambda stage, done, total: None) -> HandlerStore:
    """Native code, shared by all machines of this process.

    It is built on first use, which takes some seconds and which `progress` hears of, and kept in the user's cache
    folder.
    """
    global _native_code
    if _native_code is None:
        store = HandlerStore(progress=progress)
        store.build_usual()
        _native_code = store
    return _native_code


class Machine(SavedStates):
    """A PC without a hypervisor. Two machines that are given the same do the same, cycle by cycle.

    `memory` is in bytes or a text such as "128M"; `cpu` names a processor profile; `start_time` is the RTC's at cycle
    0; backtraces take their names from `symbols`, an ELF file or a mapping of names to linear addresses.
    Raises ApiError, InvalidMemorySize.
    """

    def __init__(
        self,
        memory: int | str = "256M",
        cpu: str = "opteron-2007",
        *,
        start_time: datetime | None = None,
        symbols: PathLike | Mapping[str, int] | None = None,
    ) -> None:
        if cpu not in PROFILES:
            raise UnknownCpu(cpu, tuple(PROFILES))
        checks.time(start_time)
        board = PcConfig() if start_time is None else PcConfig(start_time)
        config = MachineConfig(memory_size(memory), PROFILES[cpu], board)
        #: What the guest sends to COM1, and a way to type.
        self.console = Console()
        self._bare = BareMachine(config, self.console, native_code())
        self.console.connect(self._bare)
        processor = self._processor = self._bare.processor
        self.registers = Registers(processor)
        #: RAM by guest-physical and by linear address.
        self.memory = Memory(self._bare.memory)
        self.virtual = VirtualMemory(processor)
        self._hooks = Hooks(processor)
        self._inspector = Inspector(processor, self.console)
        self._watcher = Watcher(processor, self._watchpoint_hit)
        if symbols is not None:
            self.load_symbols(symbols)
        self._breakpoints: set[int] = set()
        self._booted = False
        #: Functions that after() is still to call: they may wake a processor that has halted for good.
        self._callbacks = 0
        of_board = processor.expects_unmaskable
        processor.expects_unmaskable = lambda: self._callbacks > 0 or of_board()
        self._result: Result | None = None
        self._host_seconds = 0.0

    # -- the guest

    def boot(
        self,
        guest: PathLike | None = None,
        *,
        kernel: PathLike | None = None,
        initrd: PathLike | None = None,
        append: str | None = None,
        image: bytes | bytearray | memoryview | BootImage | None = None,
        address: int | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        """Load a guest and put the processor at its first instruction.

        One of: `guest`, "debian", the name of an embedded guest or a path; `kernel`, a path, with `initrd` and
        `append`; `image`, a kernel's or boot sector's bytes or a BootImage. With `address` the bytes are plain 16-bit
        code, loaded and started there in real mode. `command` is for "debian". Raises MachineError.
        """
        if self._booted:
            raise AlreadyBooted
        found = find_image(
            guest=guest,
            kernel=kernel,
            initrd=initrd,
            append=append,
            image=image,
            address=address,
            command=command,
            memory_size=self.memory.size,
        )
        self._bare.load(found)
        self._booted = True

    def load_symbols(self, source: PathLike | Mapping[str, int]) -> Symbols:
        """Name addresses after an ELF file's symbols, or by a mapping to linear addresses. Raises NotAnElfFile."""
        self._inspector.symbols = Symbols(source)
        return self._inspector.symbols

    # -- running

    def run(
        self,
        until: Pattern | None = None,
        *,
        until_address: int | str | None = None,
        until_exception: int | Collection[int] | None = None,
        instructions: int | None = None,
        cycles: int | None = None,
        seconds: float | None = None,
    ) -> Result:
        """Run until something stops the guest or until what is asked for; the result says which.

        `until` is a text or a compiled pattern on the console, looked for behind the last match; `until_address` a
        linear address or a symbol; `until_exception` one or more vectors. `instructions`, `cycles` and `seconds`
        (of modelled time) end the run at the first place where the processor looks at interrupts, at most 63
        instructions later: stopping a run changes nothing in it. Exceptions of hooks and devices come out of here.
        Raises ApiError.
        """
        self._check_runnable()
        instructions, cycles = checks.deadline("instructions", instructions), checks.deadline("cycles", cycles)
        seconds = checks.seconds(seconds)
        place = None if until_address is None else self._place("until_address=", until_address)
        if until is not None:
            checks.pattern(until)
        exceptions = None if until_exception is None else checks.vectors("until_exception=", until_exception)
        clock, cleanup = self._bare.clock, []
        if until is not None:
            cleanup.append(self.console.unwatch)
            self.console.watch(until, self._stop)
        if exceptions is not None:
            cleanup.append(self._hooks.on_exception(exceptions, self._exception_taken).remove)
        if seconds is not None:
            event = clock.schedule(
                clock.now + round(seconds * clock.hz), lambda: self._stop(DeadlineReached("seconds"))
            )
            cleanup.append(functools.partial(clock.cancel, event))
        if cycles is not None:
            event = clock.schedule(clock.now + cycles, lambda: self._stop(DeadlineReached("cycles")))
            cleanup.append(functools.partial(clock.cancel, event))
        self._set_breakpoints(place)
        cleanup.append(self._set_breakpoints)
        try:
            return self._run(lambda: self._bare.run(instructions), place)
        finally:
            for undo in cleanup:
                undo()

    def step(self, count: int = 1) -> Result:
        """Carry out exactly `count` instructions, interrupts between them included. A later run goes on as if the
        machine had not been stopped. Breakpoints stop it too. Raises ApiError."""
        self._check_runnable()
        steps = checks.deadline("count", count) or 1
        return self._run(lambda: self._processor.step(steps), None)

    def expect(self, pattern: Pattern, *, seconds: float | None = None) -> str:
        """Run until `pattern` is on the console; the text before it. Raises UnexpectedEnd when the run ends else."""
        # pytest then shows the test's own line.
        __tracebackhide__ = True
        result = self.run(until=pattern, seconds=seconds)
        if not isinstance(result, ConsoleMatch):
            wanted = repr(pattern) if isinstance(pattern, str) else repr(pattern.pattern)
            raise UnexpectedEnd(wanted, str(result), self.console.tail(1))
        return result.text

    def stop(self) -> None:
        """End the run; for hooks, devices and callbacks."""
        self._stop(StopRequested())

    def _check_runnable(self) -> None:
        if not self._booted:
            raise NotBooted

    def _run(self, run: Callable[[], Stopped], until_address: int | None) -> Result:
        control = self._bare.control
        started = time.perf_counter()
        try:
            # A callback may have asked for the end already.
            stopped = run() if self._result is None else Stopped("request")
        finally:
            self._host_seconds += time.perf_counter() - started
            result, self._result = self._result, None
            request = control.request
            if isinstance(request, UserQuit):
                control.request = None
        match request:
            case PowerOff():
                return PoweredOff()
            case GuestExit(status):
                return GuestExited(status)
            case Reset():
                return ResetRequested()
        if result is not None:
            return result
        match stopped.reason:
            case "breakpoint":
                address = self.registers.linear_rip
                if address == until_address and address not in self._breakpoints:
                    return AddressReached(address)
                return BreakpointHit(address)
            case "limit":
                return DeadlineReached("instructions")
            case "steps":
                return StepsDone()
            case "halted":
                return Halted()
            case "triple-fault":
                return TripleFault()
        return Unimplemented(stopped.report)

    def _stop(self, result: Result) -> None:
        """The first reason to stop wins."""
        if self._result is None:
            self._result = result
        self._bare.control.stop(UserQuit())

    def _exception_taken(self, event: ExceptionEvent) -> None:
        self._stop(ExceptionTaken(event.vector, event.error, event.rip, event.address))

    # -- breakpoints and watchpoints

    @property
    def breakpoints(self) -> frozenset[int]:
        """Linear addresses before whose instructions a run stops."""
        return frozenset(self._breakpoints)

    def _place(self, name: str, place: int | str) -> int:
        """A linear address, given as one or as a symbol. Raises UnknownSymbol, InvalidArgument."""
        if isinstance(place, str):
            return (self._inspector.symbols or Symbols({})).address(place)
        return checks.address(name, place)

    def add_breakpoint(self, address: int | str) -> int:
        """Stop before the instruction at a linear address, or at a symbol; the address. Costs nothing elsewhere.

        An instruction that faults, or a repeated one that is interrupted, is begun again and stops the run again.
        Raises UnknownSymbol.
        """
        place = self._place("a breakpoint", address)
        self._breakpoints.add(place)
        self._set_breakpoints()
        return place

    def remove_breakpoint(self, address: int | str) -> None:
        """Take a breakpoint away; one that is not there is no error."""
        self._breakpoints.discard(self._place("a breakpoint", address))
        self._set_breakpoints()

    def _set_breakpoints(self, another: int | None = None) -> None:
        addresses = frozenset(self._breakpoints if another is None else self._breakpoints | {another})
        if addresses != self._processor.blocks.breakpoints.addresses:
            self._processor.set_breakpoints(addresses)

    def add_watchpoint(self, address: int | str, size: int = 1, *, reads: bool = False) -> Watchpoint:
        """Stop after an instruction that writes (or, with `reads`, reads) any of `size` bytes from linear `address` (or
        a symbol) on.

        While there is a watchpoint, the machine takes every instruction as a single step: about a thousand times
        slower, with the same counts.
        """
        if not size > 0:
            raise InvalidArgument("a size above 0 for a watchpoint", repr(size), "give the number of bytes")
        watchpoint = Watchpoint(self._place("a watchpoint", address), size, reads)
        self._watcher.watchpoints.append(watchpoint)
        self._processor.observer = self._watcher
        return watchpoint

    def remove_watchpoint(self, watchpoint: Watchpoint) -> None:
        """Take a watchpoint away; one that is not there is no error."""
        if watchpoint in self._watcher.watchpoints:
            self._watcher.watchpoints.remove(watchpoint)
        if not self._watcher.watchpoints:
            self._processor.observer = None

    def _watchpoint_hit(self, rip: int, access: MemoryAccess) -> None:
        self._stop(WatchpointHit(rip, access))
        self._processor.pause()

    def trace(self, options: TraceOptions, write: Callable[[str], None]) -> Result:
        """Run and give every instruction, access, exception and interrupt that passes `options` to `write` as text.

        Ends with StepsDone behind the last of `options.count` instructions. Breakpoints stop it; watchpoints do not.
        The counts of the run are those of an untraced one. Raises ApiError.
        """
        self._check_runnable()
        processor = self._processor

        def done() -> None:
            self._stop(StepsDone())
            processor.pause()

        tracer = Tracer(processor, options, write, done)
        if options.skip > NATIVE_SKIP:
            # Native code overshoots by less than a block.
            result = self.run(instructions=options.skip - NATIVE_SKIP)
            if not isinstance(result, DeadlineReached):
                return result
        hooks = (
            self.on_exception(None, tracer.on_exception),
            self.on_interrupt(None, tracer.on_interrupt),
            self._hooks.on_smm(tracer.on_smm),
        )
        previous, processor.observer = processor.observer, tracer
        try:
            return self._run(self._bare.run, None)
        finally:
            processor.observer = previous
            for hook in hooks:
                hook.remove()

    # -- hooks and devices

    def on_port(self, ports: int | range, function: PortFunction) -> Hook:
        """Call `function(PortEvent)` when the guest reads (afterwards) or writes (before) one of `ports`.

        A number that it returns replaces the value.
        """
        checks.function("on_port()", function)
        return self._hooks.on_port(checks.places("on_port()", ports, PORTS, "a port from 0 to 0xffff"), function)

    def on_memory(self, addresses: int | range, function: MemoryFunction) -> Hook:
        """The same for guest-physical addresses that are no RAM: `function(MemoryEvent)`."""
        checks.function("on_memory()", function)
        place = checks.places("on_memory()", addresses, 1 << 52, "an address of at most 52 bits")
        if self._bare.memory.is_ram(place.start, len(place)):
            got = f"RAM at {place.start:#x}"
            raise InvalidArgument("addresses of devices for on_memory()", got, "use add_watchpoint() for RAM")
        return self._hooks.on_memory(place, function)

    def on_exception(self, vectors: int | Collection[int] | None, function: ExceptionFunction) -> Hook:
        """Call `function(ExceptionEvent)` before an exception is delivered; None for every vector."""
        checks.function("on_exception()", function)
        chosen = None if vectors is None else checks.vectors("on_exception()", vectors)
        return self._hooks.on_exception(chosen, function)

    def on_interrupt(self, vectors: int | Collection[int] | None, function: InterruptFunction) -> Hook:
        """Call `function(InterruptEvent)` before an interrupt is delivered; None for every vector."""
        checks.function("on_interrupt()", function)
        chosen = None if vectors is None else checks.vectors("on_interrupt()", vectors)
        return self._hooks.on_interrupt(chosen, function)

    def on_instruction(self, name: str, function: InstructionFunction) -> Hook:
        """Call `function(InstructionEvent)` before an instruction such as "cpuid", "hlt", "mov_cr" or "wrmsr" is
        carried out. Raises UnknownInstruction, which lists all classes."""
        checks.function("on_instruction()", function)
        return self._hooks.on_instruction(name, function)

    def add_port_device(self, first: int, device: PortDevice, count: int = 1) -> None:
        """Give `count` ports from `first` on to a device. Raises InvalidMapping, MappingConflict."""
        checks.device(device, "read_port", "write_port")
        self._bare.board.bus.map_ports(first, count, PortAdapter(device))

    def add_memory_device(self, base: int, device: MappedDevice, size: int = 4096) -> None:
        """Give `size` bytes of guest-physical memory, in whole pages, to a device. Raises as add_port_device does."""
        checks.device(device, "read_memory", "write_memory")
        adapter = MemoryAdapter(device)
        for ram in self.memory.ranges():
            if base < ram.stop and ram.start < base + size:
                raise MappingConflict(adapter.name, "RAM", f"address {max(base, ram.start):#x}")
        self._bare.board.bus.map_memory(base, size, adapter)

    def irq_line(self, irq: int) -> IrqLine:
        """A function that sets the level of ISA interrupt request `irq` (0..15)."""
        return self._bare.board.irq_line(checks.number("irq_line()", irq, 16, "an interrupt request from 0 to 15"))

    def after(self, cycles: int, function: Callable[[], None]) -> None:
        """Call `function` when `cycles` modelled cycles have passed."""

        delay = checks.number("after()", cycles, 1 << 63, "a number of cycles, 0 or more,")
        checks.function("after()", function)

        def call() -> None:
            self._callbacks -= 1
            function()

        self._callbacks += 1
        self._bare.clock.schedule(self._bare.clock.now + delay, call)

    def pulse_nmi(self) -> None:
        """Signal one non-maskable interrupt to the guest."""
        self._processor.pulse_nmi()

    # -- looking

    @property
    def cycles(self) -> int:
        """Modelled cycles since the machine was made."""
        return self._bare.clock.now

    @property
    def seconds(self) -> float:
        """Modelled time since the machine was made."""
        return self._bare.clock.now / self._bare.clock.hz

    @property
    def instructions(self) -> int:
        """Instructions that the guest has carried out."""
        return self._processor.instructions

    def statistics(self) -> Statistics:
        """What the machine has counted up to now."""
        return read_statistics(self._bare, self._host_seconds)

    def disassemble(self, address: int | str | None = None, count: int = 6) -> list[str]:
        """Lines for `count` instructions from a linear address or a symbol (None: rip) on."""
        return self._inspector.disassemble(None if address is None else self._place("disassemble()", address), count)

    def backtrace(self) -> list[Frame]:
        """The chain of calls by frame pointers, innermost first."""
        return self._inspector.backtrace()

    def report(self, lines: int = 20) -> str:
        """The console's last lines, the backtrace, registers and the code at rip, for people."""
        return self._inspector.report(lines)
