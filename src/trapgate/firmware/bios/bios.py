"""The BIOS: puts ROM, vectors and data area into memory, and answers the port by which its routines call.

Sources: IBM PC AT Technical Reference, BIOS listing (what the power-on self-test leaves); Ralf Brown's Interrupt List.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from trapgate.firmware.bios import data_area, rom
from trapgate.firmware.bios.bootstrap import BootCode, Bootstrap
from trapgate.firmware.bios.call import CS, Call
from trapgate.firmware.bios.disk import Disk
from trapgate.firmware.bios.display import Display, Window, WindowMemory
from trapgate.firmware.bios.drives import Drive, Emulation
from trapgate.firmware.bios.equipment import Equipment, equipment_word
from trapgate.firmware.bios.host import Host, Ports, Processor
from trapgate.firmware.bios.keyboard import ENHANCED_KEYBOARD, Keyboard
from trapgate.firmware.bios.printer import Printer
from trapgate.firmware.bios.screen import Screen
from trapgate.firmware.bios.serial import Serial
from trapgate.firmware.bios.system import System
from trapgate.firmware.bios.time_of_day import TimeOfDay
from trapgate.firmware.bios.video import Video
from trapgate.firmware.bios.waiting import Waiting
from trapgate.firmware.memory_map import CONVENTIONAL_TOP, EBDA_BASE
from trapgate.machine.clock import Clock
from trapgate.machine.console import ConsoleBackend
from trapgate.machine.control import Reset, RunControl
from trapgate.machine.device import Snapshot
from trapgate.machine.ram import Ram

SERIAL_PORTS = (0x3F8, 0x2F8)
#: Where printers are looked for, and what is written to find them.
PRINTER_PORTS = (0x378,)
PRINTER_PATTERN = 0xAA
#: As IBM's self-test leaves it.
PRINTER_TIMEOUT = 20
#: Exceptions that come back for ever when their handler does nothing.
FATAL_EXCEPTIONS = {
    0x00: "divide error",
    0x06: "invalid opcode",
    0x0C: "stack fault",
    0x0D: "general protection fault",
}
#: Others whose default is to do nothing, as in IBM's BIOS.
IGNORED_EXCEPTIONS = (0x01, 0x02, 0x03, 0x04)
FIRST_PIC_VECTORS = range(0x08, 0x10)
SECOND_PIC_VECTORS = range(0x70, 0x78)
CLOCK_VECTOR = 0x70
READ_IN_SERVICE = 0x0B
PIC_1, PIC_1_MASK, PIC_2 = 0x20, 0x21, 0xA0
END_OF_INTERRUPT = 0x20
#: Timer, keyboard and the second 8259 are let through.
USUAL_MASK = 0xF8
PIT_CONTROL, PIT_CHANNEL_0 = 0x43, 0x40
#: Channel 0, low and high byte, mode 3: 65536 ticks of 1193182 Hz.
PIT_TIMER = 0x36
I8042_DATA, I8042_COMMAND = 0x60, 0x64
WRITE_COMMAND_BYTE = 0x60
#: Keyboard interrupts, scan codes translated to set 1, the mouse's interface off.
COMMAND_BYTE = 0x01 | 0x04 | 0x20 | 0x40
CMOS_INDEX, CMOS_DATA = 0x70, 0x71
CMOS_DISKETTES, CMOS_EQUIPMENT, CMOS_CHECKSUM = 0x10, 0x14, 0x2E
CMOS_SUMMED = range(0x10, 0x2E)


class Bios:
    """A BIOS for `drives` that starts `code`. A device of one port; `console` shows the screen."""

    def __init__(
        self,
        processor: Processor,
        memory: Ram,
        ports: Ports,
        clock: Clock,
        control: RunControl,
        console: ConsoleBackend,
        drives: Sequence[Drive],
        code: BootCode,
        emulation: Emulation | None = None,
        window: Window | None = None,
    ) -> None:
        """`window` is the memory of the VGA, where there is one; else the screen is RAM at B8000h."""
        self.name = "bios"
        self.port_width = 1
        self._notes: Counter[str] = Counter()
        host = self._host = Host(processor, memory, ports, clock, control, self._note)
        self._rom = rom.Rom()
        self._drives = list(drives)
        waiting = Waiting(host)
        display = None if window is None else Display(host, window)
        self.screen = Screen(memory, console, None if window is None else WindowMemory(window))
        self.keyboard = Keyboard(host, waiting)
        self._video = Video(host, self.screen, display)
        self._time = TimeOfDay(host)
        self._serial, self._system = Serial(host, waiting), System(host, waiting)
        bootstrap = Bootstrap(host, self._video, code)
        equipment = Equipment(host)
        self._services: dict[int, Callable[[Call], None]] = {
            0x08: self._time.tick,
            0x09: self.keyboard.interrupt,
            0x10: self._video.call,
            0x11: equipment.equipment,
            0x12: equipment.memory_size,
            0x13: Disk(host, self._drives, emulation).call,
            0x14: self._serial.call,
            0x15: self._system.call,
            0x16: self.keyboard.call,
            0x17: Printer(host, waiting).call,
            0x18: bootstrap.fail,
            0x19: bootstrap.boot,
            0x1A: self._time.call,
            CLOCK_VECTOR: self._time.alarm,
            rom.POST: self._post,
        }

    @property
    def notes(self) -> list[str]:
        """What guests wanted and did not get, in order, with how often if more than once."""
        return [text if count == 1 else f"{text} ({count} times)" for text, count in self._notes.items()]

    def _note(self, text: str) -> None:
        self._notes[text] += 1

    def install(self) -> None:
        """What the power-on self-test leaves: ROM, vectors, data areas, the chips programmed."""
        memory = self._host.memory
        memory.write(rom.ROM_BASE + rom.FIRST, self._rom.data)
        memory.write(0, self._rom.vectors())
        kept = {place: memory.read_u16(place) for place in (0x40E, data_area.MEMORY_KB)}
        memory.write(data_area.BASE, bytes(0x100))
        for place, value in kept.items():
            memory.write_u16(place, value)
        # Its first byte is the size of the extended data area in KB.
        memory.write_u8(EBDA_BASE, (CONVENTIONAL_TOP - EBDA_BASE) >> 10)
        self._fill_data_area()
        self._program_chips()
        self._video.initialise()
        self._time.initialise()

    def _fill_data_area(self) -> None:
        memory = self._host.memory
        diskettes = [drive for drive in self._drives if drive.is_diskette]
        printers = [port for port in PRINTER_PORTS if self._is_latch(port)]
        equipment = equipment_word(len(diskettes), len(SERIAL_PORTS), len(printers))
        memory.write_u16(data_area.EQUIPMENT, equipment)
        for number, port in enumerate(SERIAL_PORTS):
            memory.write_u16(data_area.SERIAL_PORTS + 2 * number, port)
            memory.write_u8(data_area.SERIAL_TIMEOUTS + number, 1)
        for number, port in enumerate(printers):
            memory.write_u16(data_area.PRINTER_PORTS + 2 * number, port)
            memory.write_u8(data_area.PRINTER_TIMEOUTS + number, PRINTER_TIMEOUT)
        start, end = data_area.KEY_BUFFER - data_area.OFFSET_BASE, data_area.KEY_BUFFER_END - data_area.OFFSET_BASE
        for place in (data_area.KEY_HEAD, data_area.KEY_TAIL, data_area.KEY_BUFFER_START_POINTER):
            memory.write_u16(place, start)
        memory.write_u16(data_area.KEY_BUFFER_END_POINTER, end)
        memory.write_u8(data_area.KEYBOARD_FLAGS_3, ENHANCED_KEYBOARD)
        memory.write_u8(data_area.DISK_COUNT, sum(not d.is_diskette and not d.is_cd for d in self._drives))
        self._write_cmos(CMOS_DISKETTES, diskettes[0].diskette_type << 4 if diskettes else 0)
        self._write_cmos(CMOS_EQUIPMENT, equipment & 0xFF)
        checksum = sum(self._read_cmos(register) for register in CMOS_SUMMED) & 0xFFFF
        self._write_cmos(CMOS_CHECKSUM, checksum >> 8)
        self._write_cmos(CMOS_CHECKSUM + 1, checksum & 0xFF)

    def _is_latch(self, port: int) -> bool:
        """Whether a port keeps what is written to it, as a printer's data register does."""
        self._host.outb(port, PRINTER_PATTERN)
        return self._host.inb(port) == PRINTER_PATTERN

    def _read_cmos(self, register: int) -> int:
        self._host.outb(CMOS_INDEX, register)
        return self._host.inb(CMOS_DATA)

    def _write_cmos(self, register: int, value: int) -> None:
        self._host.outb(CMOS_INDEX, register)
        self._host.outb(CMOS_DATA, value)

    def _program_chips(self) -> None:
        host = self._host
        host.outb(PIT_CONTROL, PIT_TIMER)
        host.outb(PIT_CHANNEL_0, 0)  # 0 is 65536
        host.outb(PIT_CHANNEL_0, 0)
        host.outb(I8042_COMMAND, WRITE_COMMAND_BYTE)
        host.outb(I8042_DATA, COMMAND_BYTE)
        host.outb(PIC_1_MASK, USUAL_MASK)

    # Snapshot

    def snapshot(self) -> Snapshot:
        """What the services remember; the data areas are memory."""
        return {
            "notes": dict(self._notes),
            "drives": [drive.snapshot() for drive in self._drives],
            "screen": self.screen.snapshot(),
            "keyboard": self.keyboard.snapshot(),
            "serial": self._serial.snapshot(),
            "system": self._system.snapshot(),
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what `snapshot` gave, for the same drives."""
        self._notes = Counter(snapshot["notes"])
        for drive, state in zip(self._drives, snapshot["drives"], strict=True):
            drive.restore(state)
        self.screen.restore(snapshot["screen"])
        self.keyboard.restore(snapshot["keyboard"])
        self._serial.restore(snapshot["serial"])
        self._system.restore(snapshot["system"])

    # The port

    def reset(self) -> None:
        """The port has no state."""

    def read_port(self, offset: int, width: int) -> int:
        """Nothing is there to be read."""
        return 0xFF

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Run the service whose routine this OUT stands in; an OUT from anywhere else does nothing."""
        processor = self._host.processor
        base: int = processor.segments[CS].base
        service = self._rom.services.get(base + processor.rip - rom.ROM_BASE)
        if service is None:
            self._note(f"a write to the BIOS's port {rom.SERVICE_PORT:02x}h from outside its ROM: ignored")
            return
        call = Call(processor, service)
        function = self._services.get(service)
        if function is not None:
            function(call)
        else:
            self._unclaimed(call)

    def _post(self, call: Call) -> None:
        """The reset vector, which programs jump to when they want the machine to start again."""
        self._host.control.stop(Reset())

    def _in_service(self, vector: int) -> bool:
        """True when the first 8259 gave this vector; else the processor did, or INT."""
        self._host.outb(PIC_1, READ_IN_SERVICE)
        return bool(self._host.inb(PIC_1) >> (vector - FIRST_PIC_VECTORS.start) & 1)

    def _unclaimed(self, call: Call) -> None:
        """An interrupt or exception that nobody handles."""
        vector = call.vector
        if vector in FIRST_PIC_VECTORS and self._in_service(vector):
            self._host.outb(PIC_1, END_OF_INTERRUPT)
            self._note(f"int {vector:02x}h: an interrupt that nobody handles")
        elif vector in SECOND_PIC_VECTORS:
            self._host.outb(PIC_2, END_OF_INTERRUPT)
            self._host.outb(PIC_1, END_OF_INTERRUPT)
            self._note(f"int {vector:02x}h: an interrupt that nobody handles")
        elif vector in FATAL_EXCEPTIONS:
            segment, offset = call.return_address
            self._note(
                f"int {vector:02x}h: {FATAL_EXCEPTIONS[vector]} at {segment:04x}:{offset:04x}, which nobody handles: "
                "the processor is halted"
            )
            base: int = call.processor.segments[CS].base
            call.processor.jump(rom.ROM_BASE + rom.HALT - base)
        elif vector not in IGNORED_EXCEPTIONS:
            self._note(f"{call.describe()}: not supported")
