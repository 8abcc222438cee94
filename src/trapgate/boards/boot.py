"""What firmware leaves behind before any boot protocol: PCI's addresses, tables in memory, fw_cfg's files."""

from __future__ import annotations

from dataclasses import replace

from trapgate.boards.pc import Pc
from trapgate.firmware.acpi import AcpiHardware
from trapgate.firmware.bios.disk_image import DiskImage
from trapgate.firmware.fw_cfg import FIRST_PORT, FwCfg
from trapgate.firmware.image import BootImage
from trapgate.firmware.linux import LinuxImage
from trapgate.firmware.pci_setup import set_up_pci
from trapgate.firmware.tables import write_tables
from trapgate.firmware.video_setup import set_up_video


def prepare_boot(image: BootImage, board: Pc, fw_cfg: FwCfg) -> int:
    """Guest-physical address of the RSDP, after all of it is in place. Raises FirmwareError."""
    memory, bus, has_pci = board.memory, board.bus, board.pci is not None
    if isinstance(image, LinuxImage):
        fw_cfg.set_boot_files(image.kernel, image.initrd, image.command_line.decode(errors="surrogateescape"))
    hardware = AcpiHardware(
        fw_cfg_port=FIRST_PORT,
        has_pci=has_pci,
        has_parallel=board.parallel is not None,
        virtio_mmio=board.virtio_mmio.places(),
    )
    if has_pci:
        hardware = replace(hardware, pci_interrupts=set_up_pci(bus))
    # With a disk it is the BIOS that programs the display.
    if isinstance(image, LinuxImage):
        line = image.command_line.rstrip(b"\0").decode(errors="replace")
        image.screen_info = b"" if board.vga is None else set_up_video(board.memory, board.bus, board.vga, line)
    elif board.vga is not None and not isinstance(image, DiskImage):
        set_up_video(board.memory, board.bus, board.vga)
    # Firmware gives the I/O APIC the identifier that its tables name.
    bus.write_memory(hardware.io_apic_address, 4, 0)
    bus.write_memory(hardware.io_apic_address + 0x10, 4, hardware.io_apic_id << 24)
    return write_tables(memory, hardware)
