"""Everything that a PC's firmware leaves in memory for operating systems, whichever image is booted."""

from __future__ import annotations

from trapgate.firmware.acpi import AcpiHardware, write_acpi_tables
from trapgate.firmware.memory_map import write_bios_data_area
from trapgate.firmware.mp_table import ProcessorIdentity, write_mp_table
from trapgate.machine.ram import Ram


def write_tables(memory: Ram, hardware: AcpiHardware | None = None, processor: ProcessorIdentity | None = None) -> int:
    """Write the BIOS data area, the ACPI tables and the MP table; returns the RSDP's address for BootImage.load."""
    write_bios_data_area(memory)
    write_mp_table(memory, hardware, processor)
    return write_acpi_tables(memory, hardware)
