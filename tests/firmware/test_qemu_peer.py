"""QEMU as a peer: Debian's kernel, entered on QEMU's processor with the memory and registers that our loaders made.

What QEMU's board has elsewhere is given to it: the sleep type of soft-off is 0 on its PIIX4. The tables lie in low
memory, because its firmware area is read-only.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from trapgate.firmware.acpi import AcpiHardware, write_acpi_tables
from trapgate.firmware.linux import LinuxImage
from trapgate.lab.console_output import ConsoleSplitter
from trapgate.lab.debian import DebianGuest, DebianUnavailable, fetch_debian
from trapgate.lab.initramfs import build_initramfs, output_token
from trapgate.machine.memory import PhysicalMemory

from .qemu_entry import run_on_qemu, tools_missing

SCRIPT = r"printf 'a\nb\r\nc\000\377'; echo err >&2; cat; dd if=/dev/zero bs=1M count=16 | md5sum; exit 37"
COMMAND = ["sh", "-c", SCRIPT]
TABLES = 0x60000

pytestmark = [
    pytest.mark.debian,
    pytest.mark.skipif(tools_missing() is not None, reason=f"{tools_missing()} is not installed"),
]


@pytest.fixture(scope="module")
def guest() -> DebianGuest:
    try:
        return fetch_debian()
    except DebianUnavailable as error:
        pytest.skip(f"Debian's packages cannot be had here: {error}")


@pytest.mark.parametrize("entry64", [True, False])
def test_debian_boots_from_our_entry_state(guest: DebianGuest, tmp_path: Path, entry64: bool) -> None:
    initramfs = build_initramfs(guest.busybox.read_bytes(), COMMAND)
    image = LinuxImage(guest.kernel.read_bytes(), initramfs, "console=ttyS0")
    assert image.header.has_entry64
    image.header = replace(image.header, has_entry64=entry64)
    memory = PhysicalMemory(128 << 20)
    root = write_acpi_tables(memory, AcpiHardware(soft_off_type=0), base=TABLES)
    console = run_on_qemu(memory, image.load(memory, root), tmp_path)
    splitter = ConsoleSplitter(output_token(COMMAND))
    output = splitter.feed(console) + splitter.finish()
    assert output.startswith(b"a\nb\r\nc\x00\xfferr\n")
    assert b"2c7ab85a893283e98c931e9511add182  -\n" in output
    assert splitter.status == 37
    messages = console.decode("latin1")
    assert "Linux version 6." in messages
    assert "ACPI: RSDP 0x0000000000060000" in messages
    assert "PM: (supports S0 S5)" in messages
    assert "PNP: PS/2 Controller [PNP0303:KBD,PNP0f13:MOU]" in messages
    assert re.search(r"Memory: \d+K/13\d{4}K available", messages), "128 MB by our memory map"
    assert "reboot: Power down" in messages
    complaints = re.findall(r"(?:ACPI|acpi|RSDP|FADT|MADT|pnp)[^\n]*(?:rror|arning|BUG|nvalid)[^\n]*", messages)
    assert not complaints
