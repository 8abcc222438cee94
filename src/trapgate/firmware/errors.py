"""Errors of bad input to the firmware. Each message is one line: what was wanted, what was got, what to do."""

from __future__ import annotations

from trapgate.machine.errors import MachineError


def megabytes(size: int) -> str:
    """`size` bytes in MB, rounded up to a tenth, without a needless fraction."""
    tenths = -(-size * 10 >> 20)
    return f"{tenths // 10} MB" if tenths % 10 == 0 else f"{tenths / 10} MB"


def advised_memory(size: int) -> str:
    """`size` bytes rounded up to a multiple of 8 MB, as --memory takes it."""
    return f"{-(-size // (8 << 20)) * 8}M"


class FirmwareError(MachineError):
    """Base of what the user can get wrong in what a machine is to boot."""


class NotAKernel(FirmwareError):
    """The file is no image that this firmware can boot."""

    def __init__(self, name: str, got: str) -> None:
        super().__init__(
            f"wanted a kernel (Linux bzImage, multiboot 1, or ELF with a PVH entry), got {got} in {name}: "
            "name a kernel image with --kernel"
        )


class NotBootable(FirmwareError):
    """The file has a diskette's size, or is to be booted as a disk, and its first sector is none that a BIOS starts."""

    def __init__(self, name: str, got: bytes, kind: str = "diskette") -> None:
        super().__init__(
            f"wanted a boot sector that ends in 55h AAh in the {kind} image {name}, got {got[0]:02X}h {got[1]:02X}h "
            "there: name an image that can be booted"
        )


class CorruptImage(FirmwareError):
    """The file begins as a known kind of image and then contradicts itself."""

    def __init__(self, name: str, wanted: str, got: str) -> None:
        super().__init__(f"wanted {wanted}, got {got} in {name}: the file is damaged or truncated, get it again")


class UnsupportedImage(FirmwareError):
    """A well-formed image of a kind that trapgate does not boot."""

    def __init__(self, name: str, got: str, wanted: str) -> None:
        super().__init__(f"wanted {wanted}, got {got} in {name}: boot an image of the wanted kind")


class CommandLineTooLong(FirmwareError):
    """The kernel accepts fewer bytes of command line."""

    def __init__(self, length: int, limit: int) -> None:
        super().__init__(f"wanted a kernel command line of at most {limit} bytes, got {length} bytes: shorten --append")


class InvalidCommandLine(FirmwareError):
    """A command line that cannot be handed over as a zero-terminated string."""

    def __init__(self) -> None:
        super().__init__("wanted a kernel command line without zero bytes, got one: remove it from --append")


class TooLittleMemory(FirmwareError):
    """The image needs more RAM than the machine has.

    `needed` and `memory_size` are bytes; `needed` is a lower bound that follows from the image's headers alone.
    `enough`, in bytes, is an estimate for the advice when the lower bound is known to be too low.
    """

    def __init__(self, what: str, needed: int, memory_size: int, enough: int = 0) -> None:
        super().__init__(
            f"wanted at least {megabytes(needed)} of memory for {what}, got {megabytes(memory_size)}: "
            f"use --memory {advised_memory(max(needed, enough))} or more"
        )
        self.needed = needed
        self.memory_size = memory_size


class InitrdTooLarge(FirmwareError):
    """The initrd does not fit between the kernel and the highest address that the kernel accepts for it.

    All in bytes: `room` is what there is for it; `enough` is the memory to advise, None when more would not help.
    """

    def __init__(self, size: int, room: int, enough: int | None) -> None:
        remedy = (
            f"use a smaller one, or --memory {advised_memory(enough)} or more"
            if enough is not None
            else "this kernel accepts no higher initrd address, use a smaller one"
        )
        super().__init__(
            f"wanted an initrd of at most {max(room, 0)} bytes beside this kernel, got {size} bytes: {remedy}"
        )


class ImageOutsideMemory(FirmwareError):
    """A segment of the image asks for addresses that are not RAM."""

    def __init__(self, name: str, address: int, length: int, memory_size: int) -> None:
        super().__init__(
            f"wanted RAM at guest-physical {address:#x} for {length} bytes of {name}, got a machine with "
            f"{megabytes(memory_size)}: use more --memory or an image that loads elsewhere"
        )


class InvalidLoadAddress(FirmwareError):
    """A raw image's load or entry address is impossible."""

    def __init__(self, wanted: str, got: str) -> None:
        super().__init__(f"wanted {wanted}, got {got}: choose another address")
