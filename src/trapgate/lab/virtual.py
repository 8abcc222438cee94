"""A run under the hypervisor: composes host and virtual machine, connects the console's input, reads the counters."""

from __future__ import annotations

import time
from dataclasses import replace

from trapgate.arch.cpuid import PROFILES, CpuProfile
from trapgate.boards.host import HostMachine
from trapgate.boards.pci import DiskConfig, FolderConfig
from trapgate.cpu.faults import Unimplemented
from trapgate.devices.vga.adapter import FRAME_BUFFER_SIZE
from trapgate.engine.collection import without_collection
from trapgate.firmware.image import BootImage
from trapgate.lab.bare import usual_handlers
from trapgate.lab.characters.opening import PortBackends
from trapgate.lab.characters.source import board_config, connect
from trapgate.lab.console import GuestConsole, ProgressCallback, ShownOnce
from trapgate.lab.displays import board_vga, connect_console, open_displays, serial_output
from trapgate.lab.ends import End, requested_end
from trapgate.lab.errors import UnknownTechnique
from trapgate.lab.networks import Nic, plug_in, with_networks
from trapgate.lab.options import BARE, DEFAULT_PROCESSOR, RunOptions
from trapgate.lab.processor_report import describe_processor
from trapgate.lab.statistics import Statistics, read_virtual_statistics
from trapgate.lab.supervisor import Supervisor
from trapgate.lab.virtual_report import describe_virtual_cpu
from trapgate.machine.console import ConsoleBackend
from trapgate.machine.control import UserQuit
from trapgate.machine.errors import UnimplementedDevice
from trapgate.vmm.errors import DeviceInstruction
from trapgate.vmm.techniques import TECHNIQUES
from trapgate.vmm.vm import VirtualMachine

#: Bytes of host memory besides the guest's: shadow tables (at most 4096 frames), permission maps, and what is lost to
#: the alignment of runs. Nested tables that map single frames take 1/512 of the guest's memory.
HYPERVISOR_MEMORY = 32 << 20
_NESTED_SHARE = 256
_PAGE = 4096


def host_memory(guest_memory: int, frame_buffer: bool = False) -> int:
    """Bytes of RAM that a host of one guest has, with or without a frame buffer."""
    guest_memory += FRAME_BUFFER_SIZE if frame_buffer else 0
    return guest_memory + HYPERVISOR_MEMORY + guest_memory // _NESTED_SHARE // _PAGE * _PAGE


def software_host(profile: CpuProfile) -> CpuProfile:
    """The host of a guest whose code is translated, so that any processor will do.

    A guest and its shadow tables may be of other kinds than the host's own (shadow tables are PAE's at least), so what
    `profile` lacks is the host's of 2007; the guest sees `profile`, and has its instructions alone.
    """
    if "SVM" in profile.flags:
        return profile
    return replace(PROFILES[DEFAULT_PROCESSOR], features=profile.features, frequency=profile.frequency)


def run_supervised(host: HostMachine, vm: VirtualMachine, supervisor: Supervisor, pause_at: int | None = None) -> str:
    """Run, stopping and going on as `supervisor` has it, until something ends the run, or "paused" as `vm.run` has it.

    The guest is stopped where it is, within the call of the hypervisor's loop that runs it.
    """
    host.on_stop = vm.on_stop = supervisor.stopped
    reason = "request"
    going = supervisor.begin(host.max_instructions)
    while going:
        host.max_instructions = supervisor.limit
        pauses = [pause for pause in (pause_at, supervisor.pause_at) if pause is not None]
        reason = vm.run(min(pauses, default=None))
        going = supervisor.returned(reason)
        if reason == "paused" and pause_at is not None and host.instructions >= pause_at:
            break
    return reason


class VirtualRun:
    """A virtual machine for `options` on a host of its own. Raises UnknownTechnique, NoSuchTechnique."""

    #: Whether the user's wish to end the run waits for the guest's next exit: its state can be taken only there.
    ends_between_entries = False

    def __init__(
        self,
        options: RunOptions,
        output: ConsoleBackend,
        console: GuestConsole,
        progress: ProgressCallback,
        disks: tuple[DiskConfig, ...] = (),
        nics: tuple[Nic, ...] = (),
        ports: PortBackends | None = None,
        folders: tuple[FolderConfig, ...] = (),
    ) -> None:
        ports = ports or PortBackends()
        technique = TECHNIQUES.get(options.technique)
        if technique is None:
            raise UnknownTechnique(options.technique, (BARE, *TECHNIQUES))
        profile = PROFILES[options.processor]
        host = profile if technique.needs_amd_v else software_host(profile)
        #: Stops the run and lets it go on, where there is one.
        self.supervisor: Supervisor | None = None
        self._options = options
        self.host = self._host = HostMachine(
            host, host_memory(options.memory_size, board_vga(options) is not None), usual_handlers(progress),
            options.costs, options.model, options.code_size,
        )  # fmt: skip
        shown = ShownOnce(serial_output(options, output), lambda: vm.outside.repeating)
        self.machine = vm = VirtualMachine(
            self._host, options.memory_size, profile, technique, shown,
            board_config(options, disks, nics, ports, folders),
        )  # fmt: skip
        self._host.processor.blocks.keeps_templates = True
        self._host_seconds = 0.0
        self._nics = nics
        self._terminal = connect_console(options, vm, vm.board, vm.clock, console)
        plug_in(vm, nics)
        connect(vm, ports)

    def load(self, image: BootImage) -> None:
        """Put a guest into memory. Raises FirmwareError."""
        self.machine.load(image)

    def stop(self) -> None:
        """End the run: the user asks for it."""
        self.machine.control.stop(UserQuit())
        if not self.ends_between_entries:
            # The processor looks at its own control alone while the guest runs.
            self._host.control.stop(UserQuit())

    def run(self, max_instructions: int | None) -> End:
        """Run until something ends it: `max_instructions` are counted from the guest's start.

        Raises VmmError for what is a mistake of the hypervisor's.
        """
        self._host.max_instructions = max_instructions
        try:
            end = self._run(None)
        finally:
            if self.supervisor is not None:
                self.supervisor.close()
            with without_collection():
                self._host.processor.keep_code()
            if self.machine.firmware is not None:
                self.machine.firmware.bios.screen.close()
            if self._terminal is not None:
                self._terminal.close()
        assert end is not None
        return end

    def run_to(self, instructions: int) -> End | None:
        """Run to the first exit behind so many instructions; how the run has ended if that was before."""
        return self._run(instructions)

    def _run(self, pause_at: int | None) -> End | None:
        started = time.perf_counter()
        try:
            with without_collection():  # as the processor's own loop does
                if pause_at is not None:
                    reason = self._go_on(pause_at)
                    return None if reason == "paused" else self._end(reason)
                vm = self.machine
                with open_displays(self._options, vm.board.vga, vm.outside, vm.input):
                    reason = self._go_on(None)
                return self._end(reason)
        except (Unimplemented, UnimplementedDevice, DeviceInstruction) as error:
            return End("unimplemented", report=f"{error}\n{self._describe()}")
        finally:
            self._host_seconds += time.perf_counter() - started

    def _go_on(self, pause_at: int | None) -> str:
        if self.supervisor is None:
            return self.machine.run(pause_at)
        return run_supervised(self._host, self.machine, self.supervisor, pause_at)

    def statistics(self) -> Statistics:
        """What the run counted."""
        return with_networks(read_virtual_statistics(self._host, self.machine, self._host_seconds), self._nics)

    def _end(self, reason: str) -> End:
        end = self._reason(reason)
        firmware = self.machine.firmware
        return end if firmware is None else replace(end, notes=tuple(firmware.bios.notes))

    def _reason(self, reason: str) -> End:
        request = self.machine.control.request
        if request is not None:
            return requested_end(request)
        if reason == "limit":
            return End("limit")
        if reason == "halted":
            return End("halted")
        if reason == "unimplemented":
            return End("unimplemented", report=f"{self._host.processor.stop_report}\n{self._describe()}")
        return End("triple-fault", report=self._describe())

    def _describe(self) -> str:
        """The guest's registers: those of the processor while it runs, else those of the VMCB."""
        processor = self._host.processor
        return (
            describe_processor(processor) if processor.in_guest else describe_virtual_cpu(self.machine.vcpu, processor)
        )
