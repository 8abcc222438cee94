"""The ACPI tables of the board: RSDP, RSDT, XSDT, FADT, FACS, MADT and DSDT.

Source: ACPI specification 6.5, chapter 5; the tables are of the revisions of ACPI 2.0, which every system reads. There
is no SMI command port: the hardware is always in ACPI mode, as 4.8.3.2 allows (SMI_CMD = 0).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from trapgate.firmware import aml
from trapgate.firmware.memory_map import FIRMWARE_BASE
from trapgate.firmware.pci_setup import MEMORY_WINDOW, PciInterrupt
from trapgate.machine.ram import Ram

OEM_ID = b"TRAPGT"
OEM_TABLE_ID = b"TRAPGATE"
OEM_REVISION = 1
CREATOR_ID = b"TGAT"
CREATOR_REVISION = 1
HEADER_LENGTH = 36

# 5.2.9, Fixed ACPI Description Table: flags.
WBINVD = 1 << 0
PROC_C1 = 1 << 2
PWR_BUTTON = 1 << 4
SLP_BUTTON = 1 << 5
FIX_RTC = 1 << 6
RESET_REG_SUP = 1 << 10
# 5.2.9.3, IA-PC Boot Architecture flags.
LEGACY_DEVICES = 1 << 0
HAS_8042 = 1 << 1
VGA_NOT_PRESENT = 1 << 2
#: C2 and C3 latencies above 100 and 1000 us say that the processor has no such states.
NO_C2_LATENCY = 0xFFFF
NO_C3_LATENCY = 0xFFFF
CMOS_CENTURY = 0x32
PROFILE_DESKTOP = 1
SYSTEM_IO = 1
PCI_CONFIGURATION = 0xCF8
#: The function number in an address of the routing table.
ANY_FUNCTION = 0xFFFF

# 5.2.12, Multiple APIC Description Table.
PCAT_COMPAT = 1 << 0
LOCAL_APIC_ENABLED = 1 << 0
ALL_PROCESSORS = 0xFF
LEVEL_ACTIVE_HIGH = 0x000D
BUS_DEFAULT = 0


@dataclass(frozen=True)
class MmioDevice:
    """A virtio device's registers, `size` bytes at guest-physical `base`, and its global system interrupt."""

    base: int
    size: int
    interrupt: int


@dataclass(frozen=True)
class AcpiHardware:
    """Where the board puts what the tables describe. Ports are I/O ports, addresses guest-physical, sizes in bytes."""

    pm1a_event: int = 0x600
    pm1a_control: int = 0x604
    pm_timer: int = 0x608
    sci_interrupt: int = 9
    soft_off_type: int = 5
    reset_port: int = 0xCF9
    reset_value: int = 6
    local_apic_address: int = 0xFEE0_0000
    io_apic_address: int = 0xFEC0_0000
    local_apic_id: int = 0
    io_apic_id: int = 1
    mouse: bool = True
    #: First port of QEMU's fw_cfg device; None: the board has none.
    fw_cfg_port: int | None = None
    has_parallel: bool = False
    virtio_mmio: tuple[MmioDevice, ...] = ()
    #: Whether there is a PCI bus, and where its interrupt pins are wired.
    has_pci: bool = False
    pci_interrupts: tuple[PciInterrupt, ...] = ()

    @property
    def level_interrupts(self) -> tuple[int, ...]:
        """ISA interrupts that are levels, in order: the SCI and those that PCI uses."""
        return tuple(sorted({self.sci_interrupt, *(interrupt.irq for interrupt in self.pci_interrupts)}))


def _sum_to_zero(data: bytes | bytearray) -> int:
    return -sum(data) & 0xFF


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A system description table: the 36-byte header (5.2.6) with its checksum, then `body`."""
    head = signature + struct.pack("<IBB", HEADER_LENGTH + len(body), revision, 0)
    head += OEM_ID + OEM_TABLE_ID + struct.pack("<I", OEM_REVISION) + CREATOR_ID + struct.pack("<I", CREATOR_REVISION)
    data = bytearray(head + body)
    data[9] = _sum_to_zero(data)
    return bytes(data)


def rsdp(rsdt: int, xsdt: int) -> bytes:
    """The Root System Description Pointer, revision 2 (5.2.5.3), for tables at these guest-physical addresses."""
    data = bytearray(b"RSD PTR \0" + OEM_ID + struct.pack("<BIIQB3x", 2, rsdt, 36, xsdt, 0))
    data[8] = _sum_to_zero(data[:20])
    data[32] = _sum_to_zero(data)
    return bytes(data)


def facs() -> bytes:
    """The Firmware ACPI Control Structure, version 1 (5.2.10): no waking vector, global lock free."""
    return b"FACS" + struct.pack("<IIIIIQB31x", 64, 0, 0, 0, 0, 0, 1)


def _generic_address(address: int, width: int) -> bytes:
    """A Generic Address Structure (5.2.3.2) in I/O space, of `width` bits; access size undefined (0) when unused."""
    access = {0: 0, 8: 1, 16: 2, 32: 3}[width]
    return struct.pack("<BBBBQ", SYSTEM_IO, width, 0, access, address)


def fadt(hardware: AcpiHardware, facs_address: int, dsdt_address: int) -> bytes:
    """The Fixed ACPI Description Table, revision 3, 244 bytes (5.2.9)."""
    flags = WBINVD | PROC_C1 | PWR_BUTTON | SLP_BUTTON | FIX_RTC | RESET_REG_SUP
    boot_flags = LEGACY_DEVICES | HAS_8042 | VGA_NOT_PRESENT
    body = struct.pack("<IIBBH", facs_address, dsdt_address, 0, PROFILE_DESKTOP, hardware.sci_interrupt)
    body += struct.pack("<IBBBB", 0, 0, 0, 0, 0)  # no SMI command port: always in ACPI mode
    body += struct.pack("<8I", hardware.pm1a_event, 0, hardware.pm1a_control, 0, 0, hardware.pm_timer, 0, 0)
    body += struct.pack("<8B", 4, 2, 0, 4, 0, 0, 0, 0)
    body += struct.pack("<HHHHBBBBB", NO_C2_LATENCY, NO_C3_LATENCY, 0, 0, 0, 0, 0, 0, CMOS_CENTURY)
    body += struct.pack("<HBI", boot_flags, 0, flags)
    body += _generic_address(hardware.reset_port, 8) + struct.pack("<B3x", hardware.reset_value)
    body += struct.pack("<QQ", 0, dsdt_address)
    unused = _generic_address(0, 0)
    body += _generic_address(hardware.pm1a_event, 32) + unused
    body += _generic_address(hardware.pm1a_control, 16) + unused
    body += unused + _generic_address(hardware.pm_timer, 32) + unused + unused
    return table(b"FACP", 3, body)


def madt(hardware: AcpiHardware) -> bytes:
    """The Multiple APIC Description Table: one processor, one I/O APIC, and how ISA interrupts reach it (5.2.12)."""
    body = struct.pack("<II", hardware.local_apic_address, PCAT_COMPAT)
    body += struct.pack("<BBBBI", 0, 8, 0, hardware.local_apic_id, LOCAL_APIC_ENABLED)
    body += struct.pack("<BBBBII", 1, 12, hardware.io_apic_id, 0, hardware.io_apic_address, 0)
    # The timer's interrupt 0 is wired to input 2; the SCI is a level, not an ISA edge, as are PCI's.
    body += struct.pack("<BBBBIH", 2, 10, 0, 0, 2, BUS_DEFAULT)
    for irq in hardware.level_interrupts:
        body += struct.pack("<BBBBIH", 2, 10, 0, irq, irq, LEVEL_ACTIVE_HIGH)
    body += struct.pack("<BBBHB", 4, 6, ALL_PROCESSORS, BUS_DEFAULT, 1)
    return table(b"APIC", 1, body)


def _isa_device(name: str, identifier: str, *descriptors: bytes, unique: int | None = None) -> bytes:
    terms = [aml.named("_HID", aml.eisa_id(identifier))]
    if unique is not None:
        terms.append(aml.named("_UID", aml.integer(unique)))
    return aml.device(name, *terms, aml.named("_CRS", aml.resources(*descriptors)))


def _pci_root(hardware: AcpiHardware) -> bytes:
    """The host bridge of PCI bus 0: what it passes on, and its interrupt routing table (6.2.13)."""
    passes = aml.resources(
        aml.word_range(aml.BUS_RANGE, 0, 0),
        aml.io_ports(PCI_CONFIGURATION, 8),
        aml.word_range(aml.IO_RANGE, 0, PCI_CONFIGURATION - 1),
        aml.word_range(aml.IO_RANGE, PCI_CONFIGURATION + 8, 0xFFFF),
        aml.memory_range(MEMORY_WINDOW.start, MEMORY_WINDOW.stop - 1),
    )
    routes = [
        aml.package(*map(aml.integer, (i.device << 16 | ANY_FUNCTION, i.pin - 1, 0, i.irq)))
        for i in hardware.pci_interrupts
    ]
    terms = [aml.named("_HID", aml.eisa_id("PNP0A03")), aml.named("_UID", aml.integer(0))]
    terms += [aml.named("_CRS", passes), aml.named("_PRT", aml.package(*routes))]
    return aml.device("PCI0", *terms)


def dsdt(hardware: AcpiHardware) -> bytes:
    """The Differentiated System Description Table: soft-off as a sleep type, and the ISA devices of a PC."""
    devices = [
        _isa_device("PIC", "PNP0000", aml.io_ports(0x20, 2), aml.io_ports(0xA0, 2), aml.irq(2)),
        _isa_device(
            "DMAC",
            "PNP0200",
            *(aml.io_ports(0x00, 16), aml.io_ports(0x81, 15), aml.io_ports(0xC0, 32)),
            aml.dma(4),
        ),
        _isa_device("TIMR", "PNP0100", aml.io_ports(0x40, 4), aml.irq(0)),
        _isa_device("RTC", "PNP0B00", aml.io_ports(0x70, 2), aml.irq(8)),
        _isa_device("KBD", "PNP0303", aml.io_ports(0x60, 1), aml.io_ports(0x64, 1), aml.irq(1)),
        _isa_device("SPKR", "PNP0800", aml.io_ports(0x61, 1)),
        _isa_device("COM1", "PNP0501", aml.io_ports(0x3F8, 8), aml.irq(4), unique=1),
        _isa_device("COM2", "PNP0501", aml.io_ports(0x2F8, 8), aml.irq(3), unique=2),
    ]
    if hardware.has_parallel:
        devices.append(_isa_device("LPT1", "PNP0400", aml.io_ports(0x378, 3), aml.irq(7)))
    if hardware.has_pci:
        devices.insert(0, _pci_root(hardware))
    for number, mmio in enumerate(hardware.virtio_mmio):
        # Virtio 1.2 does not say how ACPI names it; Linux and QEMU know LNRO0005.
        place = aml.resources(aml.memory_fixed(mmio.base, mmio.size), aml.interrupt(mmio.interrupt))
        found = (("_HID", aml.string("LNRO0005")), ("_UID", aml.integer(number)), ("_CRS", place))
        devices.append(aml.device(f"VR{number:02X}", *(aml.named(name, value) for name, value in found)))
    if hardware.mouse:
        devices.append(_isa_device("MOU", "PNP0F13", aml.irq(12)))
    if hardware.fw_cfg_port is not None:
        # QEMU, docs/specs/fw_cfg.rst, "ACPI Interface": twelve ports, present and decoded but not shown to users.
        ports = aml.resources(aml.io_ports(hardware.fw_cfg_port, 12))
        terms = (("_HID", aml.string("QEMU0002")), ("_STA", aml.integer(0x0B)), ("_CRS", ports))
        devices.append(aml.device("FWCF", *(aml.named(name, value) for name, value in terms)))
    soft_off = aml.integer(hardware.soft_off_type)
    body = aml.named("\\_S5", aml.package(soft_off, soft_off, aml.integer(0), aml.integer(0)))
    return table(b"DSDT", 2, body + aml.scope("\\_SB", *devices))


def build_tables(hardware: AcpiHardware, base: int) -> bytes:
    """All tables for guest-physical `base` (a multiple of 64), the RSDP first. Their address is part of their bytes."""
    if base % 64:
        raise ValueError(f"wanted ACPI tables at a multiple of 64 bytes, got {base:#x}")
    image = bytearray(64)

    def place(data: bytes) -> int:
        image.extend(bytes(-len(image) % 64))
        address = base + len(image)
        image.extend(data)
        return address

    facs_address = place(facs())
    dsdt_address = place(dsdt(hardware))
    fadt_address = place(fadt(hardware, facs_address, dsdt_address))
    madt_address = place(madt(hardware))
    rsdt_address = place(table(b"RSDT", 1, struct.pack("<II", fadt_address, madt_address)))
    xsdt_address = place(table(b"XSDT", 1, struct.pack("<QQ", fadt_address, madt_address)))
    image[:36] = rsdp(rsdt_address, xsdt_address)
    return bytes(image)


def write_acpi_tables(memory: Ram, hardware: AcpiHardware | None = None, base: int = FIRMWARE_BASE) -> int:
    """Write the tables at guest-physical `base` in the firmware area; returns the RSDP's address.

    The default base is where operating systems search (5.2.5.1) and is reserved in the memory map.
    """
    memory.write(base, build_tables(hardware or AcpiHardware(), base))
    return base
