"""Errors of images and of what they ask of the machine."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from firmware.images import bzimage, elf, multiboot_header, pvh_note
from trapgate.firmware.errors import (
    CommandLineTooLong,
    CorruptImage,
    ImageOutsideMemory,
    InitrdTooLarge,
    InvalidCommandLine,
    InvalidLoadAddress,
    NotAKernel,
    TooLittleMemory,
    UnsupportedImage,
)
from trapgate.firmware.image import BootImage
from trapgate.firmware.linux import LinuxImage
from trapgate.firmware.multiboot import MultibootImage
from trapgate.firmware.pvh import PvhImage
from trapgate.firmware.raw import RawImage
from trapgate.firmware.recognise import recognise
from trapgate.machine.memory import PhysicalMemory

from .cases import World, case

MB = 1 << 20


def _linux(**changes: Any) -> Callable[[World], object]:
    return lambda world: LinuxImage(bzimage(**changes), name="vmlinuz")


def _load(image: Callable[[], BootImage], megabytes: int) -> Callable[[World], object]:
    return lambda world: image().load(PhysicalMemory(megabytes * MB))


def _patched(data: bytes, offset: int, layout: str, *values: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(layout, changed, offset, *values)
    return bytes(changed)


def _pvh(data: bytes, initrd: bytes = b"") -> PvhImage:
    return PvhImage(data, initrd, name="vmlinux")


def _multiboot(data: bytes, **more: Any) -> MultibootImage:
    return MultibootImage(data, name="kernel.elf", **more)


def _multiboot_elf(**changes: Any) -> bytes:
    return elf(content=multiboot_header().ljust(0x100, b"\xf4"), **changes)


def _kludge(flags: int = 0x10003, **changes: int) -> bytes:
    fields = {"header": 0x20_0020, "load": 0x20_0000, "load_end": 0x20_0100, "bss_end": 0x20_0200, "entry": 0x20_0080}
    fields.update(changes)
    return (bytes(0x20) + multiboot_header(flags, *fields.values())).ljust(0x100, b"\xcc")


#: Offsets in a 32-bit ELF file: e_type, e_phnum; p_type and p_filesz of the first program header.
_TYPE, _COUNT, _KIND, _FILE_SIZE = 16, 44, 52, 52 + 16
_NOTED = elf(note=pvh_note(0x10_0000))

case(
    NotAKernel,
    (
        "wanted a kernel (Linux bzImage, multiboot 1, or ELF with a PVH entry), got 12 bytes of another kind in "
        "notes.txt: name a kernel image with --kernel"
    ),
    lambda w: recognise(b"not an image", name="notes.txt"),
)

# Linux
case(
    NotAKernel,
    (
        "wanted a kernel (Linux bzImage, multiboot 1, or ELF with a PVH entry), got 518 bytes without a Linux "
        "setup header in vmlinuz: name a kernel image with --kernel"
    ),
    lambda w: LinuxImage(bytes(0x206), name="vmlinuz"),
)
case(
    UnsupportedImage,
    (
        "wanted a bzImage (protocol 2.00 or up), got a zImage with boot protocol 2.15 in vmlinuz: boot an image "
        "of the wanted kind"
    ),
    _linux(loadflags=0),
)
case(
    CorruptImage,
    (
        "wanted a setup header that begins with a short jump over itself, got 0xe9 in vmlinuz: the file is "
        "damaged or truncated, get it again"
    ),
    lambda w: LinuxImage(_patched(bzimage(), 0x200, "<B", 0xE9), name="vmlinuz"),
)
case(
    CorruptImage,
    ("wanted 6144 bytes as its header says, got 6000 bytes in vmlinuz: the file is damaged or truncated, get it again"),
    lambda w: LinuxImage(bzimage()[:6000], name="vmlinuz"),
)
case(
    CorruptImage,
    (
        "wanted a kernel_alignment that is a power of two from 4 KB to 1 GB, got 0x300000 in vmlinuz: the file is "
        "damaged or truncated, get it again"
    ),
    _linux(alignment=0x30_0000),
)
case(
    CorruptImage,
    ("wanted a pref_address below 4 GB, got 0x100000000 in vmlinuz: the file is damaged or truncated, get it again"),
    _linux(pref_address=1 << 32),
)
case(
    CorruptImage,
    ("wanted a code32_start of 1 MB or up, got 0x1000 in vmlinuz: the file is damaged or truncated, get it again"),
    _linux(relocatable=False, code32_start=0x1000),
)
case(
    InvalidCommandLine,
    "wanted a kernel command line without zero bytes, got one: remove it from --append",
    lambda w: LinuxImage(bzimage(), command_line="a\0b"),
)
case(
    CommandLineTooLong,
    "wanted a kernel command line of at most 255 bytes, got 256 bytes: shorten --append",
    lambda w: LinuxImage(bzimage(), command_line="x" * 256),
)
case(
    InitrdTooLarge,
    (
        "wanted an initrd of at most 8388608 bytes beside this kernel, got 104857600 bytes: use a smaller one, or "
        "--memory 224M or more"
    ),
    _load(lambda: LinuxImage(bzimage(), bytes(100 * MB)), 32),
)
case(
    InitrdTooLarge,
    (
        "wanted an initrd of at most 8388608 bytes beside this kernel, got 9437184 bytes: this kernel accepts no "
        "higher initrd address, use a smaller one"
    ),
    _load(lambda: LinuxImage(bzimage(initrd_addr_max=0x1FF_FFFF), bytes(9 * MB)), 64),
)
case(
    TooLittleMemory,
    (
        "wanted at least 69.5 MB of memory for this kernel, which takes 0x1000000 to 0x4378000 to start, got 64 "
        "MB: use --memory 72M or more"
    ),
    _load(lambda: LinuxImage(bzimage(init_size=0x337_8000), bytes(2 * MB)), 64),
)

# ELF files
case(
    CorruptImage,
    (
        "wanted an ELF header of 32 or 64 bits, got 4 bytes of something else in vmlinux: the file is damaged or "
        "truncated, get it again"
    ),
    lambda w: _pvh(b"\x7fELF"),
)
case(
    UnsupportedImage,
    "wanted an ELF file for 386 or x86-64, got machine 40 in vmlinux: boot an image of the wanted kind",
    lambda w: _pvh(elf(machine=40)),
)
case(
    UnsupportedImage,
    "wanted an executable ELF file, got ELF type 1 in vmlinux: boot an image of the wanted kind",
    lambda w: _pvh(_patched(_NOTED, _TYPE, "<H", 1)),
)
case(
    CorruptImage,
    (
        "wanted program headers inside the file, got 0 of 32 bytes at 0x34 in vmlinux: the file is damaged or "
        "truncated, get it again"
    ),
    lambda w: _pvh(_patched(_NOTED, _COUNT, "<H", 0)),
)
case(
    CorruptImage,
    ("wanted 66048 bytes as segment 0 says, got 788 bytes in vmlinux: the file is damaged or truncated, get it again"),
    lambda w: _pvh(_patched(_NOTED, _FILE_SIZE, "<I", 0x1_0000)),
)
case(
    CorruptImage,
    (
        "wanted segment 0 no larger in the file than in memory, got 0x100 in vmlinux: the file is damaged or "
        "truncated, get it again"
    ),
    lambda w: _pvh(elf(memory_size=0x80, note=pvh_note(0x10_0000))),
)
case(
    CorruptImage,
    "wanted a segment to load, got none in vmlinux: the file is damaged or truncated, get it again",
    lambda w: _pvh(_patched(_NOTED, _KIND, "<I", 6)),
)
case(
    ImageOutsideMemory,
    (
        "wanted RAM at guest-physical 0x2000000 for 768 bytes of kernel.elf, got a machine with 8 MB: use more "
        "--memory or an image that loads elsewhere"
    ),
    _load(lambda: _multiboot(_multiboot_elf(physical=32 * MB, entry=32 * MB)), 8),
)

# PVH
case(
    UnsupportedImage,
    (
        "wanted a bzImage, or an ELF kernel with CONFIG_PVH, got an ELF file without a PVH note in vmlinux: boot "
        "an image of the wanted kind"
    ),
    lambda w: _pvh(elf(bits=64, machine=62)),
)
case(
    CorruptImage,
    "wanted a PVH entry point of 32 bits, got 1000 in vmlinux: the file is damaged or truncated, get it again",
    lambda w: _pvh(elf(note=struct.pack("<III4sH", 4, 2, 18, b"Xen\0", 16))),
)
case(
    CorruptImage,
    (
        "wanted a PVH entry point of 32 bits, got an empty note in vmlinux: the file is damaged or truncated, get "
        "it again"
    ),
    lambda w: _pvh(elf(note=struct.pack("<III4s", 4, 0, 18, b"Xen\0"))),
)
case(
    TooLittleMemory,
    "wanted at least 8.1 MB of memory for the segments of vmlinux, got 8 MB: use --memory 16M or more",
    _load(lambda: _pvh(elf(physical=8 * MB, note=pvh_note(0x10_0000))), 8),
)

# Multiboot
case(
    NotAKernel,
    (
        "wanted a kernel (Linux bzImage, multiboot 1, or ELF with a PVH entry), got 768 bytes without a multiboot "
        "header in kernel.elf: name a kernel image with --kernel"
    ),
    lambda w: _multiboot(elf()),
)
case(
    UnsupportedImage,
    (
        "wanted a multiboot kernel that runs without a display, got one that demands a video mode in kernel.elf: "
        "boot an image of the wanted kind"
    ),
    lambda w: _multiboot(_kludge(0x10007)),
)
case(
    UnsupportedImage,
    (
        "wanted a multiboot kernel that runs without a display, got one that demands header flags 0x10 in "
        "kernel.elf: boot an image of the wanted kind"
    ),
    lambda w: _multiboot(_kludge(0x10013)),
)
case(
    CorruptImage,
    ("wanted an entry point below 4 GB, got 0x100000000 in kernel.elf: the file is damaged or truncated, get it again"),
    lambda w: _multiboot(_multiboot_elf(bits=64, entry=1 << 32)),
)
case(
    CorruptImage,
    (
        "wanted an entry point inside the image, got 0x7000000 in kernel.elf: the file is damaged or truncated, "
        "get it again"
    ),
    _load(lambda: _multiboot(_multiboot_elf(entry=0x700_0000)), 8),
)
case(
    TooLittleMemory,
    "wanted at least 3.1 MB of memory for kernel.elf and 1 modules, got 2 MB: use --memory 8M or more",
    _load(lambda: _multiboot(_multiboot_elf(), modules=[bytes(2 * MB)]), 2),
)
case(
    ImageOutsideMemory,
    (
        "wanted RAM at guest-physical 0x100000 for 256 bytes of kernel.elf, got a machine with 1 MB: use more "
        "--memory or an image that loads elsewhere"
    ),
    _load(lambda: _multiboot(_multiboot_elf(physical=0, entry=16, memory_size=0x9_0000)), 1),
)
case(
    InvalidCommandLine,
    "wanted a kernel command line without zero bytes, got one: remove it from --append",
    lambda w: _multiboot(_kludge(), command_line="a\0b"),
)
case(
    CorruptImage,
    (
        "wanted a multiboot header with its address fields, got 12 bytes in kernel.elf: the file is damaged or "
        "truncated, get it again"
    ),
    lambda w: _multiboot(multiboot_header(0x10003)),
)
case(
    CorruptImage,
    (
        "wanted a header_addr that agrees with load_addr, got 0x200020 and 0x300000 in kernel.elf: the file is "
        "damaged or truncated, get it again"
    ),
    lambda w: _multiboot(_kludge(load=0x30_0000)),
)
case(
    CorruptImage,
    (
        "wanted 1048576 bytes as load_end_addr says, got 256 bytes in kernel.elf: the file is damaged or "
        "truncated, get it again"
    ),
    lambda w: _multiboot(_kludge(load_end=0x30_0000)),
)
case(
    CorruptImage,
    (
        "wanted a bss_end_addr above the image, got 0x200010 in kernel.elf: the file is damaged or truncated, get "
        "it again"
    ),
    lambda w: _multiboot(_kludge(bss_end=0x20_0010)),
)

# Boot sectors and other raw code
case(
    CorruptImage,
    "wanted at least one byte, got none in sector: the file is damaged or truncated, get it again",
    lambda w: RawImage(b"", name="sector"),
)
case(
    InvalidLoadAddress,
    "wanted a load address below 0x10fff0 to start there, got 0x200000: choose another address",
    lambda w: RawImage(b"\xf4", address=2 * MB),
)
case(
    InvalidLoadAddress,
    "wanted an entry point of two 16-bit numbers, got 0x10000:0x0: choose another address",
    lambda w: RawImage(b"\xf4", address=0, code_segment=0x1_0000),
)
case(
    InvalidLoadAddress,
    "wanted a load address of 0 or up, got -1: choose another address",
    lambda w: RawImage(b"\xf4", address=-1, code_segment=0),
)
case(
    ImageOutsideMemory,
    (
        "wanted RAM at guest-physical 0x7c00 for 1048576 bytes of sector, got a machine with 1 MB: use more "
        "--memory or an image that loads elsewhere"
    ),
    _load(lambda: RawImage(bytes(MB), 0x7C00, name="sector"), 1),
)
