"""The interrupt controllers of a PC: two Intel 8259A, cascaded, with the ELCR of PCI chipsets.

Sources: Intel 8259A data sheet (order 231468-003); Intel 82371SB (PIIX3) data sheet, sections 4.2.4 and 4.2.5, for what
a PC chipset makes of LTIM and for the edge/level control registers.
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.machine.device import IrqLine, PlainState, Snapshot

# Registers: 8259A data sheet, "Programming the 8259A".
COMMAND = 0  # A0 = 0
DATA = 1  # A0 = 1
ICW1_IC4 = 0x01
ICW1_SNGL = 0x02
ICW1_INIT = 0x10
ICW4_AEOI = 0x02
ICW4_SFNM = 0x10
OCW3_SELECT = 0x08
OCW3_READ_MASK = 0x03
OCW3_READ_IRR = 0x02
OCW3_READ_ISR = 0x03
OCW3_POLL = 0x04
OCW3_SPECIAL_MASK = 0x20
OCW3_ENABLE_SPECIAL_MASK = 0x40
POLL_PENDING = 0x80
CASCADE_LINE = 2
SPURIOUS_LINE = 7

# PIIX3 data sheet, ELCR1 and ELCR2: the timer, the keyboard, the cascade, the RTC and the FPU are always edge.
ELCR_MASTER_WRITABLE = 0xF8
ELCR_SLAVE_WRITABLE = 0xDE


class Pic8259(PlainState):
    """One 8259A: ports `offset` 0 (command) and 1 (data)."""

    __slots__ = (
        "auto_eoi",
        "elcr",
        "elcr_writable",
        "icw_step",
        "imr",
        "irr",
        "isr",
        "levels",
        "lowest",
        "name",
        "needs_icw4",
        "output",
        "poll",
        "port_width",
        "read_isr",
        "rotate_on_auto_eoi",
        "set_int",
        "single",
        "special_fully_nested",
        "special_mask",
        "spurious",
        "vector_base",
    )

    STATE: ClassVar[tuple[str, ...]] = (
        "auto_eoi",
        "elcr",
        "icw_step",
        "imr",
        "irr",
        "isr",
        "levels",
        "lowest",
        "needs_icw4",
        "output",
        "poll",
        "read_isr",
        "rotate_on_auto_eoi",
        "single",
        "special_fully_nested",
        "special_mask",
        "spurious",
        "vector_base",
    )

    def __init__(self, name: str, set_int: IrqLine, elcr_writable: int) -> None:
        """`set_int` is the chip's INT output; it is called when the level changes."""
        self.name = name
        self.port_width = 1
        self.set_int = set_int
        self.elcr_writable = elcr_writable
        #: How many acknowledge cycles found no request (metric).
        self.spurious = 0
        self.levels = 0
        self.output = False
        self.reset()

    def reset(self) -> None:
        """Power-on state. The levels of the inputs stay: devices drive them."""
        self.elcr = 0
        self.vector_base = 0
        self.single = False
        self.special_fully_nested = False
        self.auto_eoi = False
        self.rotate_on_auto_eoi = False
        self.icw_step = 0
        self.needs_icw4 = False
        self._initialize()

    def _initialize(self) -> None:
        """What ICW1 does (data sheet, "Initialization Command Words", a to f)."""
        self.imr = 0
        self.isr = 0
        # Edge detection starts anew: only level-triggered inputs request now.
        self.irr = self.levels & self.elcr
        self.lowest = 7
        self.special_mask = False
        self.read_isr = False
        self.poll = False
        self._update()

    # Priority resolution

    def _highest(self, bits: int) -> int:
        """The line of highest priority in `bits`, which is not 0."""
        first = (self.lowest + 1) & 7
        rotated = ((bits >> first) | (bits << (8 - first))) & 0xFF
        return ((rotated & -rotated).bit_length() - 1 + first) & 7

    def request(self) -> int:
        """The line that the chip would serve now, or -1."""
        pending = self.irr & ~self.imr
        if not pending:
            return -1
        line = self._highest(pending)
        # In special mask mode a masked line in service blocks nobody (data sheet, "Special Mask Mode").
        in_service = self.isr & ~self.imr if self.special_mask else self.isr
        if in_service:
            first = (self.lowest + 1) & 7
            ahead = ((self._highest(in_service) - first) & 7) - ((line - first) & 7)
            # Special fully nested: a slave in service may ask again, for a line of its own of higher priority.
            if ahead < 0 or (ahead == 0 and not (self.special_fully_nested and line == CASCADE_LINE)):
                return -1
        return line

    def _update(self) -> None:
        level = self.request() >= 0
        if level != self.output:
            self.output = level
            self.set_int(level)

    # Inputs and the acknowledge cycle

    def set_line(self, line: int, level: bool) -> None:
        """Drive input `line` (0..7). An input that falls before it is acknowledged takes its request back."""
        bit = 1 << line
        if level:
            if not self.levels & bit:
                self.levels |= bit
                self.irr |= bit
                self._update()
        elif self.levels & bit:
            self.levels &= ~bit
            self.irr &= ~bit
            self._update()

    def acknowledge(self) -> int:
        """The acknowledge cycle: the line that is now in service, or -1 when no request is left (spurious)."""
        line = self.request()
        if line < 0:
            self.spurious += 1
            return -1
        bit = 1 << line
        if not self.elcr & bit:
            self.irr &= ~bit
        if self.auto_eoi:
            if self.rotate_on_auto_eoi:
                self.lowest = line
        else:
            self.isr |= bit
        # INT falls in the acknowledge cycle and rises again for what is left, so that a master sees an edge.
        if self.output:
            self.output = False
            self.set_int(False)
        self._update()
        return line

    # Access

    def read_port(self, offset: int, width: int) -> int:
        """IRR, ISR, IMR, or the poll word, whose reading acknowledges."""
        if self.poll:
            self.poll = False
            line = self.acknowledge() if self.request() >= 0 else -1
            return POLL_PENDING | line if line >= 0 else SPURIOUS_LINE
        if offset == DATA:
            return self.imr
        return self.isr if self.read_isr else self.irr

    def write_port(self, offset: int, width: int, value: int) -> None:
        """ICW1, OCW2 and OCW3 at the command port; ICW2 to ICW4 and OCW1 at the data port."""
        if offset == DATA:
            if self.icw_step == 0:
                self.imr = value
                self._update()
            else:
                self._write_icw(value)
        elif value & ICW1_INIT:
            self._write_icw1(value)
        elif value & OCW3_SELECT:
            self._write_ocw3(value)
        else:
            self._write_ocw2(value)

    def _write_icw1(self, value: int) -> None:
        # LTIM (bit 3) has no effect here: PIIX3 has the ELCR instead.
        self.single = bool(value & ICW1_SNGL)
        self.needs_icw4 = bool(value & ICW1_IC4)
        self.icw_step = 2
        self.special_fully_nested = False
        self.auto_eoi = False
        self.rotate_on_auto_eoi = False
        self._initialize()

    def _write_icw(self, value: int) -> None:
        if self.icw_step == 2:
            self.vector_base = value & 0xF8
            if not self.single:
                self.icw_step = 3
            else:
                self.icw_step = 4 if self.needs_icw4 else 0
        elif self.icw_step == 3:
            # ICW3 names the cascade's line; a PC's wiring is fixed.
            self.icw_step = 4 if self.needs_icw4 else 0
        else:
            self.auto_eoi = bool(value & ICW4_AEOI)
            self.special_fully_nested = bool(value & ICW4_SFNM)
            self.icw_step = 0
            self._update()

    def _write_ocw2(self, value: int) -> None:
        command = value >> 5
        line = value & 7
        if command == 0b001 or command == 0b101:  # non-specific EOI, and the same with rotation
            # In special mask mode it leaves masked lines alone (data sheet, "End of Interrupt").
            in_service = self.isr & ~self.imr if self.special_mask else self.isr
            if in_service:
                served = self._highest(in_service)
                self.isr &= ~(1 << served)
                if command == 0b101:
                    self.lowest = served
        elif command == 0b011 or command == 0b111:  # specific EOI, and the same with rotation
            self.isr &= ~(1 << line)
            if command == 0b111:
                self.lowest = line
        elif command == 0b110:  # set priority
            self.lowest = line
        elif command == 0b100:
            self.rotate_on_auto_eoi = True
        elif command == 0b000:
            self.rotate_on_auto_eoi = False
        self._update()

    def _write_ocw3(self, value: int) -> None:
        if value & OCW3_ENABLE_SPECIAL_MASK:
            self.special_mask = bool(value & OCW3_SPECIAL_MASK)
        if value & OCW3_POLL:
            self.poll = True
        elif value & OCW3_READ_MASK >= OCW3_READ_IRR:
            self.read_isr = value & OCW3_READ_MASK == OCW3_READ_ISR
        self._update()

    def write_elcr(self, value: int) -> None:
        """Set which inputs are level-triggered (bit 1) and which edge-triggered (bit 0)."""
        self.elcr = value & self.elcr_writable
        # A level input that is high requests; one that became edge keeps the request it has.
        self.irr |= self.levels & self.elcr
        self._update()


class Elcr:
    """The edge/level control registers, ports 4D0h (master) and 4D1h (slave)."""

    __slots__ = ("chips", "name", "port_width")

    def __init__(self, master: Pic8259, slave: Pic8259) -> None:
        self.name = "elcr"
        self.port_width = 1
        self.chips = (master, slave)

    def reset(self) -> None:
        """The registers are part of the two chips, which reset them."""

    def read_port(self, offset: int, width: int) -> int:
        """The register of chip `offset`."""
        return self.chips[offset].elcr

    def write_port(self, offset: int, width: int, value: int) -> None:
        """Set the register of chip `offset`."""
        self.chips[offset].write_elcr(value)


class PicPair:
    """Master and slave as a PC wires them: the slave's INT drives the master's line 2."""

    __slots__ = ("elcr", "master", "name", "slave")

    def __init__(self, set_intr: IrqLine) -> None:
        """`set_intr` is the master's INT output."""
        self.name = "pic"
        self.master = Pic8259("pic", set_intr, ELCR_MASTER_WRITABLE)
        self.slave = Pic8259("pic", self._cascade, ELCR_SLAVE_WRITABLE)
        self.elcr = Elcr(self.master, self.slave)

    def _cascade(self, level: bool) -> None:
        self.master.set_line(CASCADE_LINE, level)

    def reset(self) -> None:
        """Reset both chips."""
        self.slave.reset()
        self.master.reset()

    def set_irq(self, irq: int, level: bool) -> None:
        """Drive ISA interrupt request `irq` (0..15; 2 is the cascade and cannot be driven)."""
        if irq >= 8:
            self.slave.set_line(irq - 8, level)
        elif irq != CASCADE_LINE:
            self.master.set_line(irq, level)

    def acknowledge(self) -> int:
        """The vector of the interrupt taken; line 7's when the request is gone (data sheet, "Default IR7")."""
        line = self.master.acknowledge()
        if line < 0:
            return self.master.vector_base | SPURIOUS_LINE
        if line == CASCADE_LINE and not self.master.single:
            slave_line = self.slave.acknowledge()
            return self.slave.vector_base | (slave_line if slave_line >= 0 else SPURIOUS_LINE)
        return self.master.vector_base | line

    def snapshot(self) -> Snapshot:
        """The state of both chips."""
        return {"master": self.master.snapshot(), "slave": self.slave.snapshot()}

    def restore(self, snapshot: Snapshot) -> None:
        """Put back the state of both chips."""
        self.master.restore(snapshot["master"])
        self.slave.restore(snapshot["slave"])
