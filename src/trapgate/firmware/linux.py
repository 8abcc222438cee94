"""The Linux/x86 boot protocol: bzImage through its 64-bit entry point, or its 32-bit one where that is all it has.

Source: Linux Documentation/arch/x86/boot.rst ("boot") and zero-page.rst; struct boot_params in
arch/x86/include/uapi/asm/bootparam.h.
"""

from __future__ import annotations

from dataclasses import dataclass

from trapgate.firmware.errors import (
    CommandLineTooLong,
    CorruptImage,
    InitrdTooLarge,
    InvalidCommandLine,
    NotAKernel,
    TooLittleMemory,
    UnsupportedImage,
)
from trapgate.firmware.image import (
    CODE32_ATTRIBUTES,
    CODE64_ATTRIBUTES,
    CR0_ET,
    CR0_PE,
    CR0_PG,
    CR4_PAE,
    DATA32_ATTRIBUTES,
    EFER_LMA,
    EFER_LME,
    EntryState,
    TableRegister,
    descriptor,
    entry_registers,
    flat_segments,
)
from trapgate.firmware.memory_map import low_memory_top, memory_map, write_bios_data_area
from trapgate.machine.ram import LOW_LIMIT, Ram

# Offsets in the file and in struct boot_params (boot, "The Real-Mode Kernel Header").
SETUP_HEADER = 0x1F1
SETUP_SECTS = 0x1F1
SYSSIZE = 0x1F4
BOOT_FLAG = 0x1FE
JUMP = 0x200
HEADER_MAGIC = 0x202
VERSION = 0x206
KERNEL_VERSION = 0x20E
TYPE_OF_LOADER = 0x210
LOADFLAGS = 0x211
CODE32_START = 0x214
RAMDISK_IMAGE = 0x218
RAMDISK_SIZE = 0x21C
HEAP_END_PTR = 0x224
CMD_LINE_PTR = 0x228
INITRD_ADDR_MAX = 0x22C
KERNEL_ALIGNMENT = 0x230
RELOCATABLE_KERNEL = 0x234
XLOADFLAGS = 0x236
CMDLINE_SIZE = 0x238
PREF_ADDRESS = 0x258
INIT_SIZE = 0x260
# Fields of struct boot_params outside the header (zero-page.rst).
ACPI_RSDP_ADDR = 0x70
E820_ENTRIES = 0x1E8
E820_TABLE = 0x2D0
E820_MAX_ENTRIES = 128
BOOT_PARAMS_SIZE = 4096
HEADER_ROOM_END = 0x290

BOOT_FLAG_VALUE = 0xAA55
LOADED_HIGH = 1 << 0
CAN_USE_HEAP = 1 << 7
XLF_KERNEL_64 = 1 << 0
LOADER_UNDEFINED = 0xFF
SECTOR = 512
ENTRY64_OFFSET = 0x200
DEFAULT_LOAD_ADDRESS = 0x100000
#: boot, "cmdline_size": what protocols below 2.06 accept; "initrd_addr_max": what those below 2.03 accept.
DEFAULT_CMDLINE_SIZE = 255
DEFAULT_INITRD_ADDR_MAX = 0x37FF_FFFF

# Where the loader puts its own things: conventional memory that the kernel's early code leaves alone. (Its page-table
# trampoline takes the two pages below the EBDA, found through 40Eh.)
GDT_ADDRESS = 0x1000
BOOT_PARAMS_ADDRESS = 0x10000
COMMAND_LINE_ADDRESS = 0x20000
COMMAND_LINE_ROOM = 0x10000
PAGE_TABLES_ADDRESS = 0x30000
STACK_TOP = 0x80000

BOOT_CS = 0x10
BOOT_DS = 0x18

PAGE = 4096
LARGE_PAGE = 2 << 20
PRESENT_WRITABLE = 0x03
LARGE_PAGE_BIT = 0x80
IDENTITY_GIGABYTES = 4


def _up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


@dataclass(frozen=True)
class SetupHeader:
    """The fields of a bzImage's header that a loader needs, defaults filled in for older protocols. Sizes in bytes."""

    protocol: int
    setup_size: int
    kernel_size: int
    code32_start: int
    relocatable: bool
    alignment: int
    has_entry64: bool
    cmdline_size: int
    initrd_addr_max: int
    pref_address: int
    init_size: int
    header_end: int
    version_text: str

    @property
    def runtime_start(self) -> int:
        """Guest-physical address where the kernel is loaded, which is also where it runs before it moves itself.

        boot, "init_size": a relocatable kernel runs at its aligned load address, but never below the address it was
        configured for (arch/x86/boot/compressed/head_64.S, LOAD_PHYSICAL_ADDR), so that is where it is put.
        """
        if self.relocatable:
            return _up(max(self.pref_address, DEFAULT_LOAD_ADDRESS), self.alignment)
        return self.code32_start

    @property
    def startup_end(self) -> int:
        """End of the memory that the kernel takes from its first instruction until it can read the memory map."""
        start = self.runtime_start if self.relocatable else max(self.runtime_start, self.pref_address)
        return max(start + self.init_size, self.runtime_start + self.kernel_size)


def is_bzimage(data: bytes) -> bool:
    """True when `data` has the boot flag and the magic of a Linux setup header."""
    return len(data) >= 0x206 and data[BOOT_FLAG:JUMP] == b"\x55\xaa" and data[HEADER_MAGIC:VERSION] == b"HdrS"


def parse_header(data: bytes, name: str) -> SetupHeader:
    """Read and check a bzImage's header. Raises NotAKernel, CorruptImage, UnsupportedImage; `name` is for messages."""

    def field(offset: int, width: int) -> int:
        return int.from_bytes(data[offset : offset + width], "little")

    if not is_bzimage(data):
        raise NotAKernel(name, f"{len(data)} bytes without a Linux setup header")
    protocol = field(VERSION, 2)
    header_end = min(JUMP + 2 + data[JUMP + 1], HEADER_ROOM_END)
    if protocol < 0x0200 or not field(LOADFLAGS, 1) & LOADED_HIGH:
        raise UnsupportedImage(
            name, f"a zImage with boot protocol {protocol >> 8}.{protocol & 0xFF:02}", "a bzImage (protocol 2.00 or up)"
        )
    if data[JUMP] != 0xEB or len(data) < header_end:
        raise CorruptImage(name, "a setup header that begins with a short jump over itself", f"{data[JUMP]:#x}")
    setup_size = ((data[SETUP_SECTS] or 4) + 1) * SECTOR
    kernel_size = field(SYSSIZE, 4 if protocol >= 0x0204 else 2) * 16
    if kernel_size == 0 or protocol < 0x0204:
        kernel_size = len(data) - setup_size
    if kernel_size <= ENTRY64_OFFSET or len(data) < setup_size + kernel_size - 15:
        raise CorruptImage(name, f"{setup_size + kernel_size} bytes as its header says", f"{len(data)} bytes")
    relocatable = protocol >= 0x0205 and data[RELOCATABLE_KERNEL] != 0
    alignment = field(KERNEL_ALIGNMENT, 4) if protocol >= 0x0205 else PAGE
    if relocatable and (alignment < PAGE or alignment & (alignment - 1) or alignment > 1 << 30):
        raise CorruptImage(name, "a kernel_alignment that is a power of two from 4 KB to 1 GB", f"{alignment:#x}")
    pref_address = field(PREF_ADDRESS, 8) if protocol >= 0x020A else 0
    init_size = field(INIT_SIZE, 4) if protocol >= 0x020A else 0
    if pref_address >= 1 << 32:
        raise CorruptImage(name, "a pref_address below 4 GB", f"{pref_address:#x}")
    code32_start = field(CODE32_START, 4)
    if not relocatable and code32_start < DEFAULT_LOAD_ADDRESS:
        raise CorruptImage(name, "a code32_start of 1 MB or up", f"{code32_start:#x}")
    text = b""
    pointer = field(KERNEL_VERSION, 2) + 0x200
    if 0x200 < pointer < setup_size:
        text = data[pointer : pointer + 256].split(b"\0")[0]
    return SetupHeader(
        protocol=protocol,
        setup_size=setup_size,
        kernel_size=kernel_size,
        code32_start=code32_start,
        relocatable=relocatable,
        alignment=alignment,
        has_entry64=protocol >= 0x020C and bool(field(XLOADFLAGS, 2) & XLF_KERNEL_64),
        cmdline_size=field(CMDLINE_SIZE, 4) if protocol >= 0x0206 else DEFAULT_CMDLINE_SIZE,
        initrd_addr_max=field(INITRD_ADDR_MAX, 4) if protocol >= 0x0203 else DEFAULT_INITRD_ADDR_MAX,
        pref_address=pref_address,
        init_size=init_size,
        header_end=header_end,
        version_text=text.decode("ascii", "replace"),
    )


def encode_command_line(text: str, limit: int) -> bytes:
    """`text` as zero-terminated bytes of at most `limit` without the zero; raises the typed errors of bad input."""
    line = text.encode("utf-8", "surrogateescape")
    if b"\0" in line:
        raise InvalidCommandLine()
    if len(line) > limit:
        raise CommandLineTooLong(len(line), limit)
    return line + b"\0"


def place_initrd(memory: Ram, size: int, kernel_end: int, highest: int, enough: int) -> int:
    """The page-aligned guest-physical address for an initrd of `size` bytes, as high as RAM and `highest` allow.

    `highest` is the highest address of its last byte; `enough` is the memory to advise. Raises InitrdTooLarge.
    """
    top = min(low_memory_top(memory), highest + 1)
    address = (top - size) // PAGE * PAGE
    lowest = _up(kernel_end, PAGE)
    if address < lowest:
        helps = lowest + _up(size, PAGE) <= min(highest + 1, LOW_LIMIT)
        raise InitrdTooLarge(size, top // PAGE * PAGE - lowest, enough if helps else None)
    return address


def unpacked_size(initrd: bytes) -> int:
    """Bytes of RAM that the files of `initrd` take once unpacked: an estimate, its own size where unknown.

    gzip keeps the size in its last four bytes (RFC 1952, 2.3.1, ISIZE); a cpio archive is hardly larger than its files.
    """
    if initrd.startswith(b"\x1f\x8b"):
        return max(int.from_bytes(initrd[-4:], "little"), len(initrd))
    return len(initrd)


def write_boot_gdt(memory: Ram, code_attributes: int) -> TableRegister:
    """A GDT with flat code at selector 10h and flat data at 18h (boot, "32-bit" and "64-bit Boot Protocol")."""
    entries = (0, 0, descriptor(0, 0xFFFF_FFFF, code_attributes), descriptor(0, 0xFFFF_FFFF, DATA32_ATTRIBUTES))
    memory.write(GDT_ADDRESS, b"".join(entry.to_bytes(8, "little") for entry in entries))
    return TableRegister(GDT_ADDRESS, len(entries) * 8 - 1)


def write_identity_tables(memory: Ram) -> int:
    """Four-level tables that map the first 4 GB to themselves with 2 MB pages; returns the root's address for CR3."""
    root, pointers, directories = (PAGE_TABLES_ADDRESS + index * PAGE for index in range(3))
    memory.write(root, bytes(PAGE))
    memory.write_u64(root, pointers | PRESENT_WRITABLE)
    memory.write(pointers, bytes(PAGE))
    for gigabyte in range(IDENTITY_GIGABYTES):
        memory.write_u64(pointers + gigabyte * 8, directories + gigabyte * PAGE | PRESENT_WRITABLE)
    flags = PRESENT_WRITABLE | LARGE_PAGE_BIT
    entries = (page * LARGE_PAGE | flags for page in range(IDENTITY_GIGABYTES * 512))
    memory.write(directories, b"".join(entry.to_bytes(8, "little") for entry in entries))
    return root


class LinuxImage:
    """A bzImage with its initrd and command line. Construction checks the header and raises FirmwareError."""

    def __init__(self, kernel: bytes, initrd: bytes = b"", command_line: str = "", name: str = "the kernel") -> None:
        self.kernel = kernel
        self.initrd = initrd
        self.name = name
        self.header = parse_header(kernel, name)
        #: What the kernel is told of the display: none, as it is, unless firmware says more.
        self.screen_info = b""
        limit = min(self.header.cmdline_size, COMMAND_LINE_ROOM - 1)
        self.command_line = encode_command_line(command_line, limit)

    @property
    def description(self) -> str:
        return f"Linux {self.header.version_text}".rstrip()

    def minimum_memory(self) -> int:
        """Bytes of RAM without which this kernel certainly cannot start: its start-up area and the initrd, disjoint."""
        return _up(self.header.startup_end, PAGE) + _up(len(self.initrd), PAGE)

    def recommended_memory(self) -> int:
        """Bytes of RAM with which this kernel likely reaches init: an estimate for advice, never a reason to refuse.

        The kernel unpacks the initrd's files before it frees the archive, so both are in memory at once. Measured with
        Debian's 6.1 cloud kernel: 72 MB for a 2 MB initramfs and 90 MB for a 12 MB one (estimates: 71.3, 91.3).
        """
        return self.minimum_memory() + _up(unpacked_size(self.initrd), PAGE)

    def load(self, memory: Ram, rsdp: int = 0) -> EntryState:
        header = self.header
        top = low_memory_top(memory)
        if header.startup_end > top:
            what = f"this kernel, which takes {header.runtime_start:#x} to {header.startup_end:#x} to start"
            raise TooLittleMemory(what, self.minimum_memory(), memory.size, self.recommended_memory())
        initrd_address = 0
        if self.initrd:
            initrd_address = place_initrd(
                memory, len(self.initrd), header.startup_end, header.initrd_addr_max, self.recommended_memory()
            )
            memory.write(initrd_address, self.initrd)
        write_bios_data_area(memory)
        memory.write(header.runtime_start, self.kernel[header.setup_size : header.setup_size + header.kernel_size])
        memory.write(COMMAND_LINE_ADDRESS, self.command_line)
        memory.write(BOOT_PARAMS_ADDRESS, self._boot_params(memory, initrd_address, rsdp))
        return self._entry64(memory) if header.has_entry64 else self._entry32(memory)

    def _boot_params(self, memory: Ram, initrd_address: int, rsdp: int) -> bytes:
        """The zero page: the file's own header with the loader's fields, the memory map, the ACPI root."""
        header = self.header
        page = bytearray(BOOT_PARAMS_SIZE)

        def put(offset: int, width: int, value: int) -> None:
            page[offset : offset + width] = value.to_bytes(width, "little")

        page[: len(self.screen_info)] = self.screen_info
        page[SETUP_HEADER : header.header_end] = self.kernel[SETUP_HEADER : header.header_end]
        put(TYPE_OF_LOADER, 1, LOADER_UNDEFINED)
        put(LOADFLAGS, 1, page[LOADFLAGS] & ~CAN_USE_HEAP)
        put(CODE32_START, 4, header.runtime_start)
        put(RAMDISK_IMAGE, 4, initrd_address)
        put(RAMDISK_SIZE, 4, len(self.initrd))
        put(CMD_LINE_PTR, 4, COMMAND_LINE_ADDRESS)
        put(ACPI_RSDP_ADDR, 8, rsdp)
        entries = memory_map(memory)
        put(E820_ENTRIES, 1, len(entries))
        table = b"".join(entry.pack() for entry in entries)
        page[E820_TABLE : E820_TABLE + len(table)] = table
        return bytes(page)

    def _entry64(self, memory: Ram) -> EntryState:
        """boot, "64-bit Boot Protocol": long mode, identity mapping, rsi = boot_params, interrupts off."""
        return EntryState(
            mode="long64",
            registers=entry_registers(
                rip=self.header.runtime_start + ENTRY64_OFFSET, rsi=BOOT_PARAMS_ADDRESS, rsp=STACK_TOP
            ),
            segments=flat_segments(BOOT_CS, BOOT_DS, CODE64_ATTRIBUTES),
            cr0=CR0_PE | CR0_ET | CR0_PG,
            cr3=write_identity_tables(memory),
            cr4=CR4_PAE,
            efer=EFER_LME | EFER_LMA,
            gdt=write_boot_gdt(memory, CODE64_ATTRIBUTES),
        )

    def _entry32(self, memory: Ram) -> EntryState:
        """boot, "32-bit Boot Protocol": protected mode without paging, esi = boot_params, ebp = edi = ebx = 0."""
        return EntryState(
            mode="protected32",
            registers=entry_registers(rip=self.header.runtime_start, rsi=BOOT_PARAMS_ADDRESS, rsp=STACK_TOP),
            segments=flat_segments(BOOT_CS, BOOT_DS, CODE32_ATTRIBUTES),
            cr0=CR0_PE | CR0_ET,
            gdt=write_boot_gdt(memory, CODE32_ATTRIBUTES),
        )
