"""The ACPI and MP tables: checksums, links, contents; iasl reads them where it is installed."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from trapgate.firmware import aml
from trapgate.firmware.acpi import AcpiHardware, MmioDevice, build_tables, dsdt, facs, fadt, madt, write_acpi_tables
from trapgate.firmware.mp_table import ProcessorIdentity, build_mp_table, write_mp_table
from trapgate.firmware.pci_setup import PciInterrupt
from trapgate.machine.memory import PhysicalMemory

HARDWARE = AcpiHardware()


def read_table(memory: PhysicalMemory, address: int) -> bytes:
    data = memory.read(address, memory.read_u32(address + 4))
    assert sum(data) & 0xFF == 0, data[:4]
    return data


def test_every_table_is_reached_from_the_root() -> None:
    memory = PhysicalMemory(1 << 20)
    root = write_acpi_tables(memory)
    assert 0xE0000 <= root < 0x100000
    assert root % 16 == 0
    rsdp = memory.read(root, 36)
    assert rsdp[:8] == b"RSD PTR "
    assert sum(rsdp[:20]) & 0xFF == 0
    assert sum(rsdp) & 0xFF == 0
    rsdt, xsdt = struct.unpack_from("<I", rsdp, 16)[0], struct.unpack_from("<Q", rsdp, 24)[0]
    short = struct.unpack("<2I", read_table(memory, rsdt)[36:])
    assert short == struct.unpack("<2Q", read_table(memory, xsdt)[36:])
    signatures = [read_table(memory, address)[:4] for address in short]
    assert signatures == [b"FACP", b"APIC"]
    description = read_table(memory, short[0])
    facs_address, dsdt_address = struct.unpack_from("<2I", description, 36)
    assert facs_address % 64 == 0
    assert memory.read(facs_address, 4) == b"FACS"
    assert read_table(memory, dsdt_address)[:4] == b"DSDT"
    assert struct.unpack_from("<Q", description, 140)[0] == dsdt_address


def test_fadt_says_where_the_board_has_its_registers() -> None:
    description = fadt(HARDWARE, 0, 0)
    assert len(description) == 244
    assert struct.unpack_from("<H", description, 46)[0] == 9
    assert struct.unpack_from("<I", description, 48)[0] == 0, "no SMI command port"
    assert struct.unpack_from("<3I", description, 56) == (0x600, 0, 0x604)
    assert struct.unpack_from("<I", description, 76)[0] == 0x608
    assert list(description[88:92]) == [4, 2, 0, 4]
    assert description[116:128] == struct.pack("<BBBBQ", 1, 8, 0, 1, 0xCF9)
    assert description[128] == 6
    assert struct.unpack_from("<I", description, 112)[0] & 1 << 10
    assert struct.unpack_from("<H", description, 109)[0] == 7


def test_madt_entries() -> None:
    body = madt(HARDWARE)[44:]
    entries = []
    while body:
        entries.append((body[0], body[2 : body[1]]))
        body = body[body[1] :]
    assert entries == [
        (0, struct.pack("<BBI", 0, 0, 1)),
        (1, struct.pack("<BBII", 1, 0, 0xFEC0_0000, 0)),
        (2, struct.pack("<BBIH", 0, 0, 2, 0)),
        (2, struct.pack("<BBIH", 0, 9, 9, 0x0D)),
        (4, struct.pack("<BHB", 0xFF, 0, 1)),
    ]


@pytest.mark.parametrize("length", [0, 62, 63, 64, 4092, 4093, 4094, 70000, 1 << 20])
def test_aml_package_length_counts_itself(length: int) -> None:
    encoded = aml.package_length(length)
    extra = encoded[0] >> 6
    assert len(encoded) == extra + 1
    value = encoded[0] & 0x3F if extra == 0 else encoded[0] & 0xF | int.from_bytes(encoded[1:], "little") << 4
    assert value == length + len(encoded)


def test_aml_constants() -> None:
    assert aml.eisa_id("PNP0501") == bytes.fromhex("0c41d00501")
    assert aml.integer(0) == b"\x00"
    assert aml.integer(5) == b"\x0a\x05"
    assert aml.integer(0x1234) == b"\x0b\x34\x12"
    assert aml.name_segment("\\_S5") == b"\\_S5_"
    with pytest.raises(ValueError, match="1 to 4 characters"):
        aml.name_segment("TOOLONG")


def test_virtio_without_pci_and_the_printer_are_described() -> None:
    table = dsdt(MMIO)
    place = table.index(b"VR01")
    assert b"LNRO0005" in table[place:]
    assert bytes.fromhex("86 0900 01 0010d0fe 00100000 89 0600 01 01 11000000 79") in table[place:]
    assert b"LPT1" in table
    assert b"LPT1" not in dsdt(HARDWARE)


def test_tables_differ_by_their_base_only_in_links() -> None:
    assert len(build_tables(HARDWARE, 0xE0000)) == len(build_tables(HARDWARE, 0xF0000))
    with pytest.raises(ValueError, match="multiple of 64"):
        build_tables(HARDWARE, 0xE0010)


MMIO = AcpiHardware(
    has_parallel=True, virtio_mmio=(MmioDevice(0xFED0_0000, 0x1000, 16), MmioDevice(0xFED0_1000, 0x1000, 17))
)


@pytest.mark.skipif(shutil.which("iasl") is None, reason="iasl (package acpica-tools) is not installed")
@pytest.mark.parametrize("hardware", [HARDWARE, MMIO, AcpiHardware(mouse=False, fw_cfg_port=0x510)])
def test_iasl_reads_the_tables_without_a_complaint(tmp_path: Path, hardware: AcpiHardware) -> None:
    tables = {"dsdt": dsdt(hardware), "facp": fadt(hardware, 0xE0040, 0xE0080), "apic": madt(hardware), "facs": facs()}
    for name, data in tables.items():
        (tmp_path / f"{name}.aml").write_bytes(data)
        done = subprocess.run(
            ["iasl", "-d", f"{name}.aml"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        output = done.stdout + done.stderr
        assert "Could not" not in output
        assert "nvalid" not in output
        assert "ncorrect" not in output
    source = (tmp_path / "dsdt.dsl").read_text()
    assert "Name (\\_S5, Package (0x04)" in source
    assert ("QEMU0002" in source) == (hardware.fw_cfg_port is not None)
    compiled = subprocess.run(
        ["iasl", "-tc", "dsdt.dsl"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert "0 Errors, 0 Warnings, 0 Remarks" in compiled.stdout + compiled.stderr


def test_mp_table() -> None:
    memory = PhysicalMemory(1 << 20)
    pointer = write_mp_table(memory)
    assert 0xF0000 <= pointer < 0x100000
    floating = memory.read(pointer, 16)
    assert floating[:4] == b"_MP_"
    assert sum(floating) & 0xFF == 0
    address = struct.unpack_from("<I", floating, 4)[0]
    length = memory.read_u16(address + 4)
    table = memory.read(address, length)
    assert table[:4] == b"PCMP"
    assert sum(table) & 0xFF == 0
    position, kinds, wiring = 44, [], {}
    while position < length:
        kind = table[position]
        size = 20 if kind == 0 else 8
        kinds.append(kind)
        if kind == 3 and table[position + 1] == 0:
            wiring[table[position + 5]] = table[position + 7]
        position += size
    assert len(kinds) == struct.unpack_from("<H", table, 34)[0]
    assert kinds == sorted(kinds)
    assert wiring == {0: 2, **{irq: irq for irq in range(1, 16) if irq != 2}}


def test_mp_table_gives_the_processor() -> None:
    table = build_mp_table(HARDWARE, ProcessorIdentity(0x1234, 0x5678, 0x14), 0xF0000)
    assert table[16 + 44 : 16 + 56] == struct.pack("<BBBBII", 0, 0, 0x14, 3, 0x1234, 0x5678)


WITH_PCI = AcpiHardware(
    has_pci=True, pci_interrupts=(PciInterrupt(3, 1, 11), PciInterrupt(4, 1, 11), PciInterrupt(5, 2, 10))
)


def test_the_root_bridge_of_pci_and_its_routes() -> None:
    description = dsdt(WITH_PCI)
    assert b"PCI0" not in dsdt(HARDWARE)
    assert b"PCI0" + aml.named("_HID", aml.eisa_id("PNP0A03")) in description
    for address, pin, irq in ((0x3_FFFF, 0, 11), (0x4_FFFF, 0, 11), (0x5_FFFF, 1, 10)):
        assert aml.package(*map(aml.integer, (address, pin, 0, irq))) in description
    # The window of memory: producer, fixed, from C0000000h up to the I/O APIC.
    window = bytes((0x87, 23, 0, 0, 0x0C, 1)) + struct.pack("<5I", 0, 0xC000_0000, 0xFEBF_FFFF, 0, 0x3EC0_0000)
    assert window in description
    assert bytes((0x88, 13, 0, 2, 0x0C, 0)) + struct.pack("<5H", 0, 0, 0, 0, 1) in description


def test_interrupts_of_pci_are_levels() -> None:
    overrides = madt(WITH_PCI)[44 + 8 + 12 + 10 :]
    found = [struct.unpack("<BBBBIH", overrides[n : n + 10]) for n in range(0, 30, 10)]
    assert found == [(2, 10, 0, irq, irq, 0xD) for irq in (9, 10, 11)]


def test_the_mp_table_has_both_buses() -> None:
    data = build_mp_table(WITH_PCI, ProcessorIdentity(), 0xF0000)[16:]
    assert sum(data) & 0xFF == 0
    entries, place = [], 44
    while place < len(data):
        length = 20 if data[place] == 0 else 8
        entries.append(data[place : place + length])
        place += length
    assert len(entries) == struct.unpack_from("<H", data, 34)[0]
    assert [e[1:] for e in entries if e[0] == 1] == [b"\0PCI   ", b"\1ISA   "]
    pci = [e for e in entries if e[0] == 3 and e[4] == 0]
    assert [(e[2], e[5], e[7]) for e in pci] == [(0xD, 3 << 2, 11), (0xD, 4 << 2, 11), (0xD, 5 << 2 | 1, 10)]
    isa = {e[5]: (e[2], e[7]) for e in entries if e[0] == 3 and e[4] == 1 and e[1] == 0}
    assert isa[0] == (0, 2)
    assert isa[4] == (0, 4)
    assert isa[9] == (0xD, 9)
    assert isa[11] == (0xD, 11)
