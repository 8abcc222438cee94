"""The hypercall interface on VMMCALL, and how a guest finds it. docs/hypercalls.md specifies it for guests.

CPUID leaf 4000_0000h: EAX the last leaf, EBX, ECX, EDX the signature "TrapgateTrap". Leaf 4000_0001h: EAX a bit for
each hypercall (bit n: number n), EBX how many hypercall disks there are, ECX how many network cards. A hypercall has
its number in EAX and arguments in EBX, ECX, EDX, all 32 bits wide; the result is in EAX: 0 or more for success.

| number | what it does                                                                                       |
|--------|----------------------------------------------------------------------------------------------------|
| 0      | nothing: returns 0 (for measuring an exit)                                                         |
| 1      | writes the low byte of EBX to the console                                                          |
| 2      | writes ECX bytes at guest-physical EBX to the console                                              |
| 3      | describes disk EBX: sectors in EBX (low) and ECX (high), EDX bit 0: read-only                      |
| 4      | hands disk EBX the request at guest-physical ECX                                                   |
| 5      | describes card EBX: its station address in EBX (first four bytes) and ECX (last two)               |
| 6      | sends from card EBX the frame of EDX bytes at guest-physical ECX                                   |
| 7      | takes a frame from card EBX to guest-physical ECX, EDX bytes of room: returns its length, 0: none  |
| 8      | returns what has happened since (bit 0: a request was done, bit 1: a frame came); EBX: what is to interrupt |

0 and 1 may be called at every privilege level, the others, which name physical memory, at CPL 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trapgate.arch import vmcb
from trapgate.arch.profiles.profile import text_words
from trapgate.arch.registers import RAX, RBX, RCX, RDX

if TYPE_CHECKING:
    from trapgate.devices.hypercall.disk import HypercallDisk
    from trapgate.devices.hypercall.network import HypercallCard
    from trapgate.vmm.vcpu import VirtualCpu

SIGNATURE = "TrapgateTrap"
FIRST_LEAF, LAST_LEAF = 0x4000_0000, 0x4000_0001
# Results: no such hypercall; not at this privilege level; no such device; arguments that cannot be.
UNKNOWN, NOT_ALLOWED, NO_DEVICE, INVALID = 0xFFFF_FFFF, 0xFFFF_FFFE, 0xFFFF_FFFD, 0xFFFF_FFFC
#: Bytes that hypercall 2 writes at most.
LONGEST_TEXT = 4096
#: Hypercalls that user code may make.
FOR_ALL = (0, 1)


def _argument(vcpu: VirtualCpu, register: int) -> int:
    return vcpu.gpr[register] & 0xFFFF_FFFF


def _nothing(vcpu: VirtualCpu) -> int:
    return 0


def _console(vcpu: VirtualCpu) -> int:
    vcpu.vm.board.debug_console.write_port(0, 1, vcpu.gpr[RBX] & 0xFF)
    return 0


def _text(vcpu: VirtualCpu) -> int:
    address, length = _argument(vcpu, RBX), _argument(vcpu, RCX)
    memory = vcpu.vm.memory
    if length > LONGEST_TEXT or not memory.is_ram(address, length or 1):
        return INVALID
    vcpu.vm.board.debug_console.write(memory.read(address, length))
    return 0


def _disk(vcpu: VirtualCpu) -> HypercallDisk | None:
    group, number = vcpu.vm.board.hypercall, _argument(vcpu, RBX)
    return group.disks[number] if group is not None and number < len(group.disks) else None


def _card(vcpu: VirtualCpu) -> HypercallCard | None:
    group, number = vcpu.vm.board.hypercall, _argument(vcpu, RBX)
    return group.cards[number] if group is not None and number < len(group.cards) else None


def _describe_disk(vcpu: VirtualCpu) -> int:
    disk = _disk(vcpu)
    if disk is None:
        return NO_DEVICE
    vcpu.gpr[RBX], vcpu.gpr[RCX] = disk.sectors & 0xFFFF_FFFF, disk.sectors >> 32
    vcpu.gpr[RDX] = int(disk.medium.read_only)
    return 0


def _submit(vcpu: VirtualCpu) -> int:
    disk = _disk(vcpu)
    if disk is None:
        return NO_DEVICE
    return 0 if disk.submit(_argument(vcpu, RCX)) else INVALID


def _describe_card(vcpu: VirtualCpu) -> int:
    card = _card(vcpu)
    if card is None:
        return NO_DEVICE
    vcpu.gpr[RBX] = int.from_bytes(card.mac[:4], "little")
    vcpu.gpr[RCX] = int.from_bytes(card.mac[4:], "little")
    return 0


def _send(vcpu: VirtualCpu) -> int:
    card = _card(vcpu)
    if card is None:
        return NO_DEVICE
    return 0 if card.send(_argument(vcpu, RCX), _argument(vcpu, RDX)) else INVALID


def _take(vcpu: VirtualCpu) -> int:
    card = _card(vcpu)
    if card is None:
        return NO_DEVICE
    length = card.take(_argument(vcpu, RCX), _argument(vcpu, RDX))
    return INVALID if length < 0 else length


def _events(vcpu: VirtualCpu) -> int:
    group = vcpu.vm.board.hypercall
    return NO_DEVICE if group is None else group.events(_argument(vcpu, RBX))


HYPERCALLS: dict[int, Callable[[VirtualCpu], int]] = {
    0: _nothing, 1: _console, 2: _text, 3: _describe_disk, 4: _submit, 5: _describe_card, 6: _send, 7: _take,
    8: _events,
}  # fmt: skip


def hypervisor_leaf(vcpu: VirtualCpu, leaf: int) -> tuple[int, int, int, int] | None:
    """The hypervisor's CPUID leaves; None for all others."""
    if leaf == FIRST_LEAF:
        ebx, ecx, edx = text_words(SIGNATURE, 12)
        return LAST_LEAF, ebx, ecx, edx
    if leaf == FIRST_LEAF + 1:
        group = vcpu.vm.board.hypercall
        disks, cards = (0, 0) if group is None else (len(group.disks), len(group.cards))
        return sum(1 << number for number in HYPERCALLS), disks, cards, 0
    return None


def hypercall(vcpu: VirtualCpu) -> None:
    """Carry out VMMCALL; rip is already behind it."""
    number = vcpu.block[vmcb.RAX] & 0xFFFF_FFFF
    function = HYPERCALLS.get(number)
    if function is None:
        result = UNKNOWN
    elif number not in FOR_ALL and vcpu.cpl:
        result = NOT_ALLOWED
    else:
        result = function(vcpu)
    vcpu.block[vmcb.RAX] = vcpu.gpr[RAX] = result
