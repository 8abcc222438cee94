"""The MP table: processors, buses and interrupt wiring, for systems that do not read ACPI.

Source: Intel MultiProcessor Specification version 1.4, chapter 4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from trapgate.firmware.acpi import AcpiHardware
from trapgate.machine.ram import Ram

#: In the BIOS area F0000h-FFFFFh, where 4.1 lets systems search for the floating pointer.
MP_BASE = 0xF0000
FLOATING_POINTER_LENGTH = 16
SPECIFICATION_1_4 = 4
OEM_ID = b"TRAPGATE"
PRODUCT_ID = b"PC          "

# 4.3, entry types.
PROCESSOR = 0
BUS = 1
IO_APIC = 2
IO_INTERRUPT = 3
LOCAL_INTERRUPT = 4

PROCESSOR_ENABLED = 1 << 0
BOOTSTRAP_PROCESSOR = 1 << 1
IO_APIC_ENABLED = 1 << 0
INT = 0
NMI = 1
EXT_INT = 3
CONFORMS_TO_BUS = 0
LEVEL_ACTIVE_HIGH = 0x000D
ALL_LOCAL_APICS = 0xFF
PCI_BUS = 0
CASCADE_IRQ = 2
TIMER_INPUT = 2
PIC_INPUT = 0


@dataclass(frozen=True)
class ProcessorIdentity:
    """What CPUID function 1 gives in EAX and EDX, and the version register of the local APIC."""

    signature: int = 0x0010_0F22
    features: int = 0x178B_FBFF
    local_apic_version: int = 0x10


def build_mp_table(hardware: AcpiHardware, processor: ProcessorIdentity, base: int) -> bytes:
    """The floating pointer (4.1) for guest-physical `base`, followed by the configuration table (4.2)."""
    apic = hardware.io_apic_id
    # PCI bus 0 has the lowest number (4.3.2).
    buses = [b"PCI   ", b"ISA   "] if hardware.has_pci else [b"ISA   "]
    isa = len(buses) - 1
    boot_flags = PROCESSOR_ENABLED | BOOTSTRAP_PROCESSOR
    entries = [
        struct.pack(
            "<BBBBII8x",
            PROCESSOR,
            hardware.local_apic_id,
            processor.local_apic_version,
            boot_flags,
            processor.signature,
            processor.features,
        ),
        *(struct.pack("<BB6s", BUS, number, name) for number, name in enumerate(buses)),
        struct.pack("<BBBBI", IO_APIC, apic, 0x11, IO_APIC_ENABLED, hardware.io_apic_address),
        struct.pack("<BBHBBBB", IO_INTERRUPT, EXT_INT, CONFORMS_TO_BUS, isa, 0, apic, PIC_INPUT),
    ]
    for irq in range(16):
        if irq == CASCADE_IRQ:
            continue
        flags = LEVEL_ACTIVE_HIGH if irq in hardware.level_interrupts else CONFORMS_TO_BUS
        pin = TIMER_INPUT if irq == 0 else irq
        entries.append(struct.pack("<BBHBBBB", IO_INTERRUPT, INT, flags, isa, irq, apic, pin))
    for wired in hardware.pci_interrupts:
        # Bits 6-2 are the device, bits 1-0 the pin (appendix D.3).
        source = wired.device << 2 | wired.pin - 1
        entries.append(struct.pack("<BBHBBBB", IO_INTERRUPT, INT, LEVEL_ACTIVE_HIGH, PCI_BUS, source, apic, wired.irq))
    for kind, pin in ((EXT_INT, 0), (NMI, 1)):
        destination = ALL_LOCAL_APICS if kind == NMI else hardware.local_apic_id
        entries.append(struct.pack("<BBHBBBB", LOCAL_INTERRUPT, kind, CONFORMS_TO_BUS, isa, 0, destination, pin))
    body = b"".join(entries)
    header = b"PCMP" + struct.pack("<HBB", 44 + len(body), SPECIFICATION_1_4, 0) + OEM_ID + PRODUCT_ID
    header += struct.pack("<IHHIHBB", 0, 0, len(entries), hardware.local_apic_address, 0, 0, 0)
    table = bytearray(header + body)
    table[7] = -sum(table) & 0xFF
    pointer = bytearray(b"_MP_" + struct.pack("<IBBB5x", base + FLOATING_POINTER_LENGTH, 1, SPECIFICATION_1_4, 0))
    pointer[10] = -sum(pointer) & 0xFF
    return bytes(pointer + table)


def write_mp_table(
    memory: Ram,
    hardware: AcpiHardware | None = None,
    processor: ProcessorIdentity | None = None,
    base: int = MP_BASE,
) -> int:
    """Write the MP table at guest-physical `base` (a multiple of 16); returns the floating pointer's address."""
    memory.write(base, build_mp_table(hardware or AcpiHardware(), processor or ProcessorIdentity(), base))
    return base
