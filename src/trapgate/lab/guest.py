"""Finds out what the user wants to run: reads files, recognises kinds of images, fetches Debian."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trapgate import guests
from trapgate.arch.costs import MODELS
from trapgate.arch.costs import NAMES as COSTS
from trapgate.arch.cpuid import PROFILES
from trapgate.boards.pci import DiskConfig
from trapgate.firmware.bios.disk_image import DiskImage, disk_image, medium_image
from trapgate.firmware.errors import NotAKernel, TooLittleMemory
from trapgate.firmware.image import BootImage
from trapgate.firmware.linux import LinuxImage
from trapgate.firmware.raw import RawImage
from trapgate.firmware.recognise import recognise
from trapgate.lab.console import ProgressCallback
from trapgate.lab.console_output import ConsoleSplitter
from trapgate.lab.errors import ConflictingOptions, FileUnusable, UnknownCosts, UnknownModel, UnknownProcessor
from trapgate.lab.networks import model_of
from trapgate.lab.options import DEBIAN, EMBEDDED, MEMTEST, RunOptions

EMBEDDED_IMAGE = "trapgate-guest"
#: The embedded guests report success as value 0 of isa-debug-exit, which QEMU maps to this status.
EMBEDDED_SUCCESS = 1
#: More than any kernel or initrd: a file that is larger was named by mistake (a disk image, a device).
LARGEST_FILE = 4 << 30
#: Bytes of RAM: measured, Debian 12's cloud kernel runs busybox from its initramfs with 76 MB, and does not with 72 MB.
DEBIAN_MEMORY = 80 << 20
DEBIAN_COMMAND_LINE = "console=ttyS0"
DEBIAN_SCREEN = "console=tty0"
#: The image of Debian's memtest86+ that any processor here can run.
MEMTEST_FILE = "memtest86+ia32.bin"
MEMTEST_PATH = r"boot/memtest86\+ia32\.bin"
MEMTEST_COMMAND_LINE = "console=ttyS0,115200"
#: With a command nobody watches the console: a kernel that gives up should end the run rather than wait for ever.
DEBIAN_COMMAND_PANIC = "panic=-1"


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest that can be loaded. `splitter` finds the output of its command on the console."""

    image: BootImage
    description: str
    splitter: ConsoleSplitter | None = None
    #: The isa-debug-exit status that means success and becomes exit status 0; None: the status is passed on as it is.
    success_status: int | None = None


def find_guest(options: RunOptions, progress: ProgressCallback) -> Guest:
    """The guest that `options` names. Raises RunError or FirmwareError for what the user got wrong."""
    _check(options)
    if options.guest == DEBIAN:
        return _debian(options, progress)
    if options.guest == MEMTEST:
        return _memtest(options, progress)
    if options.guest == EMBEDDED or options.guest in guests.NAMES:
        return _embedded(options)
    return _file(options)


def boots_disk(options: RunOptions) -> bool:
    """Whether no guest is named, so that the first drive is booted."""
    return bool(options.drives) and options.guest is None and options.kernel is None


def has_screen(options: RunOptions) -> bool:
    """Whether a guest that is not booted through the BIOS has a display adapter."""
    return options.vga == "std" or (options.vga is None and bool(options.displays))


def boot_disk(options: RunOptions, disks: Sequence[DiskConfig]) -> Guest:
    """The guest on the first of `disks`, through the BIOS. Raises RunError, FirmwareError, BlockError."""
    _check(options)
    image = medium_image(disks[0].medium, disks[0].is_cd)
    return Guest(image, image.description)


def _check(options: RunOptions) -> None:
    if options.processor not in PROFILES:
        raise UnknownProcessor(options.processor, tuple(PROFILES))
    if options.costs not in COSTS:
        raise UnknownCosts(options.costs, COSTS)
    if options.model not in MODELS:
        raise UnknownModel(options.model, MODELS)
    if options.kernel is not None and options.guest is not None:
        raise ConflictingOptions("a guest or --kernel", "both", "leave one of them out")
    if options.command is not None and options.guest != DEBIAN:
        wanted = "a command only for a guest with a shell"
        raise ConflictingOptions(wanted, "one for another", "use trapgate run debian -- COMMAND")
    if options.command is not None and not options.command:
        raise ConflictingOptions("a command after --", "nothing", "add one, or leave -- out for a shell")
    if options.initrd is not None and (options.guest in (DEBIAN, MEMTEST, EMBEDDED, *guests.NAMES)):
        raise ConflictingOptions("--initrd with a kernel", f"it with {options.guest}", "name a kernel with --kernel")


def _embedded(options: RunOptions) -> Guest:
    name = EMBEDDED_IMAGE if options.guest == EMBEDDED else str(options.guest)
    image = recognise(guests.image(name), options.append or "", name=name)
    return Guest(image, name, success_status=EMBEDDED_SUCCESS)


def _debian(options: RunOptions, progress: ProgressCallback) -> Guest:
    from trapgate.lab.debian import fetch_debian
    from trapgate.lab.debian_modules import GENERIC_NICS, fetch_generic, fetch_modules, needed_modules
    from trapgate.lab.initramfs import NETWORK_FILES, build_initramfs, output_token

    if options.memory_size < DEBIAN_MEMORY:
        raise TooLittleMemory("Debian's kernel and busybox", DEBIAN_MEMORY, options.memory_size)
    files = fetch_debian(lambda what, share: progress(what, round(share * 1000), 1000))
    models = [model_of(nic) for nic in options.nics]
    folders, parallel = bool(options.folders), options.parallel is not None
    is_generic = options.generic_kernel or folders or parallel or any(model in GENERIC_NICS for model in models)
    needed = needed_modules(options.drives, options.devices, models, is_generic, folders, parallel)
    modules = (*needed, *options.modules)
    if modules or is_generic:
        fetch = fetch_generic if is_generic else fetch_modules
        files, drivers = fetch(files, modules, lambda what, share: progress(what, round(share * 1000), 1000))
        extra = NETWORK_FILES if options.nics else None
        initramfs = build_initramfs(files.busybox.read_bytes(), options.command, extra, modules=drivers)
    else:
        initramfs = build_initramfs(files.busybox.read_bytes(), options.command)
    words = [DEBIAN_COMMAND_LINE]
    if has_screen(options):
        # The kernel's messages go to both; the last one is /dev/console, where the command's output goes.
        words.insert(0, DEBIAN_SCREEN)
    if options.command is not None:
        words.append(DEBIAN_COMMAND_PANIC)
    if options.append is not None:
        words.append(options.append)
    image = LinuxImage(files.kernel.read_bytes(), initramfs, " ".join(words), files.version)
    splitter = None if options.command is None else ConsoleSplitter(output_token(options.command))
    return Guest(image, files.version, splitter)


def _memtest(options: RunOptions, progress: ProgressCallback) -> Guest:
    from trapgate.lab.debian_files import fetch_files

    files = fetch_files(
        MEMTEST, {MEMTEST_FILE: MEMTEST_PATH}, lambda what, share: progress(what, round(share * 1000), 1000)
    )
    words = [MEMTEST_COMMAND_LINE] if options.append is None else [MEMTEST_COMMAND_LINE, options.append]
    image = LinuxImage(files.paths[MEMTEST_FILE].read_bytes(), b"", " ".join(words), files.version)
    return Guest(image, files.version)


def _file(options: RunOptions) -> Guest:
    is_kernel = options.kernel is not None
    path = options.kernel if options.kernel is not None else Path(options.guest or "")
    data = read_file(path, "kernel" if is_kernel else "guest")
    initrd = None if options.initrd is None else read_file(options.initrd, "initrd")
    if not data:
        raise FileUnusable("kernel" if is_kernel else "guest", str(path), "an empty one", "name another file")
    image = recognise(data, options.append or "", () if initrd is None else (initrd,), str(path))
    if isinstance(image, RawImage) and is_kernel:
        raise NotAKernel(str(path), f"a boot sector of {len(data)} bytes")
    if isinstance(image, DiskImage):
        if is_kernel:
            raise NotAKernel(str(path), f"a {image.kind} image")
        if initrd is not None or options.append is not None:
            got = f"a {image.kind} image in {path}"
            raise ConflictingOptions("--initrd and --append with a kernel", got, "leave them out")
    if isinstance(image, RawImage):
        if initrd is not None or options.append is not None:
            got = f"a boot sector in {path}"
            raise ConflictingOptions("--initrd and --append with a kernel", got, "leave them out")
        # A boot sector alone expects a BIOS as much as one with a disk behind it.
        image = disk_image(data, str(path))
    return Guest(image, image.description)


def read_file(path: Path, what: str) -> bytes:
    """The bytes of a file that the user named. Raises FileUnusable for what is missing or no plain file."""
    remedy = "name another file"
    try:
        information = path.stat()
        if not stat.S_ISREG(information.st_mode):
            got = "a directory" if stat.S_ISDIR(information.st_mode) else "something that is no plain file"
            raise FileUnusable(what, str(path), got, remedy)
        if information.st_size > LARGEST_FILE:
            raise FileUnusable(what, str(path), f"{information.st_size} bytes", f"{remedy}, of at most 4 GB")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        if what == "guest" and isinstance(error, FileNotFoundError):
            remedy = f"name another file, or one of {', '.join((DEBIAN, EMBEDDED, *guests.NAMES))}"
        raise FileUnusable(what, str(path), (reason or "no valid name").lower(), remedy) from error
