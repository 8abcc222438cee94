"""`info pic`, `info irq`, `info pci`, `info block`, `info network`: what sits on the board."""

from __future__ import annotations

from trapgate.debug.guest import Guest
from trapgate.devices.ioapic import LEVEL, LOGICAL, MASKED, PINS, REMOTE_IRR, VERSION_VALUE
from trapgate.devices.pci import config_space as config
from trapgate.devices.pic8259 import Pic8259

_DELIVERY = ("fixed", "lowest", "SMI", "...", "NMI", "INIT", "...", "extINT")
#: PCI Local Bus Specification 3.0, appendix D: what QEMU calls each class and subclass.
_CLASSES = {
    0x0000: "Class 0000", 0x0100: "SCSI controller", 0x0101: "IDE controller", 0x0180: "SATA controller",
    0x0200: "Ethernet controller", 0x0300: "VGA controller", 0x0600: "Host bridge", 0x0601: "ISA bridge",
    0x0680: "Bridge", 0x0700: "Serial port", 0x0780: "Class 0780", 0x00FF: "Class 0255",
}  # fmt: skip


def interrupt_controllers(guest: Guest) -> str:
    """`info pic`."""
    io = guest.board.ioapic
    lines = [f"ioapic0: ver=0x{VERSION_VALUE & 0xFF:x} id=0x{io.apic_id >> 24 & 0xF:02x} sel=0x{io.select:02x}"]
    requests, remote = "", ""
    for pin, entry in enumerate(io.entries[:PINS]):
        active = "hi" if not entry >> 13 & 1 else "lo"
        lines.append(
            f"  pin {pin:<2} 0x{entry:016x} dest={entry >> 56:x} vec={entry & 0xFF:<3} active-{active} "
            f"{'level' if entry & LEVEL else 'edge '} {'masked' if entry & MASKED else '      '} "
            f"{_DELIVERY[entry >> 8 & 7]:<6} {'logical' if entry & LOGICAL else 'physical'}".rstrip()
        )
        requests += f" {pin}" if io.levels >> pin & 1 else ""
        remote += f" {pin}" if entry & REMOTE_IRR and entry & LEVEL else ""
    lines += [f"  IRR     {requests or ' (none)'}", f"  Remote IRR{remote or ' (none)'}"]
    pic = guest.board.pic
    lines += [_pic("pic1", pic.slave), _pic("pic0", pic.master)]
    return "\n".join(lines) + "\n"


def _pic(name: str, chip: Pic8259) -> str:
    return (
        f"{name}: irr={chip.irr:02x} imr={chip.imr:02x} isr={chip.isr:02x} hprio={chip.lowest + 1 & 7} "
        f"irq_base={chip.vector_base:02x} rr_sel={int(chip.read_isr)} elcr={chip.elcr:02x} "
        f"fnm={int(chip.special_fully_nested)}"
    )


def interrupt_counts(guest: Guest) -> str:
    """`info irq`: interrupts that the processor has taken, by vector."""
    counts = guest.processor.interrupt_counts
    return "IRQ statistics by vector:\n" + "".join(f"{vector:3d}: {counts[vector]}\n" for vector in sorted(counts))


def pci(guest: Guest) -> str:
    """`info pci`."""
    board = guest.board.pci
    if board is None:
        return "PCI not found\n"
    lines = []
    for place in range(256):
        function = board.bus.find(place)
        if function is None:
            continue
        space = function.config
        kind = space.get(config.CLASS + 1, 2)
        name = _CLASSES.get(kind, f"Class {kind:04d}")
        lines.append(f"  Bus  0, device {place >> 3:3d}, function {place & 7}:")
        lines.append(f"    {name}: PCI device {space.get(0, 2):04x}:{space.get(2, 2):04x}")
        subsystem = space.get(config.SUBSYSTEM_VENDOR, 2), space.get(config.SUBSYSTEM_VENDOR + 2, 2)
        if any(subsystem):
            lines.append(f"      PCI subsystem {subsystem[0]:04x}:{subsystem[1]:04x}")
        if function.pin:
            lines.append(f"      IRQ {space.get(config.INTERRUPT_LINE, 1)}, pin {'?ABCD'[function.pin]}")
        for index, size, base, is_io in function.bars():
            first = base & (1 << 64) - 1
            last = base + size - 1 & (1 << (64 if base < 0 else 32)) - 1
            if is_io:
                lines.append(f"      BAR{index}: I/O at 0x{first:04x} [0x{last & 0xFFFF:04x}].")
            else:
                lines.append(f"      BAR{index}: 32 bit memory at 0x{first:08x} [0x{last:08x}].")
        lines.append(f'      id "{function.name}"')
    return "\n".join(lines) + "\n"


def disks(guest: Guest) -> str:
    """`info block`."""
    board = guest.board.pci
    if board is None:
        return ""
    found = [(drive.name, drive.medium, "ide") for drive in board.ide.drives]
    for function in board.virtio:
        medium = getattr(function.device, "medium", None)
        if medium is not None:
            found.append((function.device.name, medium, "virtio"))
    return "".join(
        f"{name}: {medium.name} ({medium.size} bytes{', read-only' if medium.read_only else ''})\n"
        f"    Attached to:      {interface}\n\n"
        for name, medium, interface in found
    )


def networks(guest: Guest) -> str:
    """`info network`."""
    return "".join(
        f"net{index}: index={index},type=nic,model={nic.model},macaddr={nic.mac.hex(':')}\n"
        for index, nic in enumerate(guest.board.config.nics)
    )
