"""The arguments and options that name a guest: those of every command that runs one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from trapgate.cli.characters import Chardevs, parse_chardevs
from trapgate.cli.displays import Displays, VgaKind, parse_displays, parse_vga
from trapgate.cli.drives import Cdrom, Devices, Drives, Write, parse_devices, parse_drives
from trapgate.cli.errors import CommandLineError
from trapgate.cli.folders import Folders, parse_folders
from trapgate.cli.nics import Netdevs, Nics, parse_nics
from trapgate.lab.options import DEFAULT_PROCESSOR, EMBEDDED, RunOptions

EPILOG = (
    "GUEST: nothing for the embedded guest, 'debian' for Debian's kernel with busybox (fetched through apt), or the "
    "path of an image: Linux bzImage, multiboot kernel, ELF kernel with a PVH entry, boot sector, or an image of a "
    "diskette, a hard disk or a CD. 'memtest86+': Debian's memory test. "
    "After --: a command for 'debian' to run instead of its shell. "
    "Keys on a terminal: Ctrl-A X ends the run, Ctrl-A H shows help, Ctrl-A Ctrl-A sends Ctrl-A."
)
Serial = Annotated[str, typer.Option("--serial", "-serial", metavar="stdio|FILE|none", help="Where COM1 goes.")]
CodeSize = Annotated[
    str | None, typer.Option("--tb-size", metavar="MB", help="Megabytes for translated code (default 64).")
]
Costs = Annotated[str, typer.Option(metavar="NAME", help="Cost profile: what things take in modelled cycles.")]


def guest_options(
    context: typer.Context,
    guest: Annotated[str | None, typer.Argument(metavar="GUEST", help="See below; its command comes after --.")] = None,
    kernel: Annotated[str | None, typer.Option(metavar="FILE", help="Boot this kernel.")] = None,
    initrd: Annotated[str | None, typer.Option(metavar="FILE", help="Initial RAM disk, or multiboot module.")] = None,
    append: Annotated[str | None, typer.Option(metavar="TEXT", help="Kernel command line.")] = None,
    memory: Annotated[str, typer.Option("--memory", "-m", metavar="SIZE", help="RAM: 256M, 1G, 512 (MB).")] = "256M",
    cpu: Annotated[str, typer.Option(metavar="NAME", help="Processor profile.")] = DEFAULT_PROCESSOR,
    drive: Drives = None,
    cdrom: Cdrom = None,
    device: Devices = None,
    nic: Nics = None,
    netdev: Netdevs = None,
    chardev: Chardevs = None,
    virtfs: Folders = None,
    vga: VgaKind = None,
    display: Displays = None,
    write: Write = False,
) -> RunOptions:
    """What is to be run. The context's object is the guest's command.

    Raises InvalidMemory, InvalidDrive, InvalidNic.
    """
    from trapgate.cli.sizes import parse_memory

    drives, others = parse_drives(drive, cdrom, device)
    nics, others = parse_nics(nic, netdev, others)
    devices, virtio_ports = parse_devices(others, parse_chardevs(chardev))
    return RunOptions(
        # Without a guest the first drive is booted, as firmware would.
        guest=guest if guest is not None or kernel is not None or drives else EMBEDDED,
        drives=drives,
        devices=devices,
        nics=nics,
        virtio_ports=virtio_ports,
        folders=parse_folders(virtfs),
        vga=parse_vga(vga),
        displays=parse_displays(display),
        write=write,
        kernel=None if kernel is None else Path(kernel),
        initrd=None if initrd is None else Path(initrd),
        append=append,
        memory_size=parse_memory(memory),
        processor=cpu,
        command=context.obj,
    )


def refuse_devices(options: RunOptions, command: str) -> None:
    """Raises CommandLineError for what a subcommand cannot give its guest."""
    if options.drives or options.devices or options.nics or options.folders:
        wanted = "--drive, --device, --nic and --virtfs after trapgate run or trapgate compare"
        raise CommandLineError(wanted, f"one after trapgate {command}", "leave it out")


def takes_guest(command: Callable[..., int]) -> Callable[..., int]:
    """A subcommand `command(options: RunOptions, ...)` with the parameters of `guest_options` before its own."""
    shared = inspect.signature(guest_options, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    def parsed(**values: Any) -> int:
        options = guest_options(**{name: values.pop(name) for name in shared})
        return command(options, **values)

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*shared.values(), *own)]
    # Typer reads the parameters from here.
    parsed.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
    parsed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    parsed.__name__, parsed.__doc__ = command.__name__, command.__doc__
    return parsed
