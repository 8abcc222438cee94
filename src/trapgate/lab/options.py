"""What a run is made of, as the user asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trapgate.arch.costs import DEFAULT_COSTS, FULL
from trapgate.devices.networks.forward import Forward

#: QEMU's default of 128 MB is more than any kernel here needs, but userland that sorts or compresses wants more.
DEFAULT_MEMORY = 256 << 20
DEFAULT_PROCESSOR = "opteron-2007"
#: The technique of no hypervisor; the others are those of vmm.techniques.TECHNIQUES.
BARE = "bare"
EMBEDDED = "embedded"
DEBIAN = "debian"
MEMTEST = "memtest86+"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveOptions:
    """A disk, or a CD-ROM drive with a CD: the image in `file`, behind `interface`.

    `format` is one of devices.disks.FORMATS, or None to find out by the file's content. A guest that writes to a
    `read_only` one gets an error.
    """

    file: Path
    interface: Literal["ide", "virtio", "virtio-mmio", "hypercall"] = "ide"
    format: str | None = None
    read_only: bool = False
    is_cd: bool = False


#: The default of QEMU's cards; further ones count up from it.
FIRST_MAC = bytes.fromhex("525400123456")


@dataclass(frozen=True, slots=True, kw_only=True)
class NicOptions:
    """A network card of `model` (None: the usual one) and the network that it is plugged into.

    `mac` None: the n-th card has FIRST_MAC + n. `mtu`: bytes of payload of a frame. `capture`: a pcap file of what
    passes. `forwards`, `is_restricted` and `offloads` (whole TCP packets to and from the card) are a user network's,
    `name` is the tap interface's or the hub's. A socket network has `listen`, `connect`, or `remote` and `local`
    (datagrams). `peer` is the scripted one, for measuring.
    """

    network: Literal["user", "tap", "socket", "hub", "peer", "none"]
    model: Literal["e1000", "virtio", "hypercall"] | None = None
    mac: bytes | None = None
    mtu: int = 1500
    capture: Path | None = None
    forwards: tuple[Forward, ...] = ()
    is_restricted: bool = False
    offloads: bool = True
    name: str = ""
    listen: tuple[str, int] | None = None
    connect: tuple[str, int] | None = None
    remote: tuple[str, int] | None = None
    local: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CharacterOptions:
    """What stands behind a port. `path` is a file's or a UNIX socket's, `host` and `port` are TCP's.

    A `server` listens, and with `wait` the run begins when somebody has connected.
    """

    kind: Literal["stdio", "file", "pty", "tcp", "unix", "null"]
    path: str = ""
    host: str = ""
    port: int = 0
    server: bool = False
    wait: bool = True

    @property
    def path_or_none(self) -> Path | None:
        """The path, where there is one."""
        return Path(self.path) if self.path else None

    def describe(self) -> str:
        """As the user writes it, without its options."""
        if self.kind == "tcp":
            return f"tcp:{self.host}:{self.port}"
        return f"{self.kind}:{self.path}" if self.path else self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioPortOptions:
    """A port of the virtio console: a terminal (hvc0 and so on), or a plain stream of bytes with a name."""

    backend: CharacterOptions
    name: str = ""
    is_console: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderOptions:
    """A folder of the host, mounted by its `tag`; with `mapped`, owners and modes are kept beside the files."""

    path: Path
    tag: str
    mapped: bool = False
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DisplayOptions:
    """Where the screen goes: a PNG file at the run's end, VNC viewers, or the terminal."""

    kind: Literal["png", "vnc", "terminal"]
    #: A file, or a VNC address: ("", N) and ("HOST", N) for TCP port 5900 + N, ("PATH", None) for a UNIX socket.
    file: Path = Path()
    address: tuple[str, int | None] = ("", 0)
    #: Of VNC: viewers must know it.
    password: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """One run's inputs: the same options on the same files give the same run.

    `guest` is `embedded`, `debian`, `memtest86+` or the path of an image; None with `kernel`. `memory_size` is in
    bytes. `command` is what a guest that has a shell is to run instead of the shell.
    """

    guest: str | None = EMBEDDED
    kernel: Path | None = None
    initrd: Path | None = None
    append: str | None = None
    memory_size: int = DEFAULT_MEMORY
    processor: str = DEFAULT_PROCESSOR
    max_instructions: int | None = None
    command: tuple[str, ...] | None = None
    technique: str = BARE
    costs: str = DEFAULT_COSTS
    #: Whether the TLB, walks and caches are modelled (arch/costs: MODELS).
    model: str = FULL
    #: Bytes of decoded code, and of regions' machine code, that are kept at most; None: as many as usual.
    code_size: int | None = None
    drives: tuple[DriveOptions, ...] = ()
    #: PCI devices without a back end, names of boards.pci.DEVICES.
    devices: tuple[str, ...] = ()
    nics: tuple[NicOptions, ...] = ()
    #: What stands behind COM2 and the parallel port; None: COM2 is not connected, there is no parallel port.
    serial2: CharacterOptions | None = None
    parallel: CharacterOptions | None = None
    #: Ports of the virtio console; without any it has one, whose output goes where COM1's goes.
    virtio_ports: tuple[VirtioPortOptions, ...] = ()
    folders: tuple[FolderOptions, ...] = ()
    #: Debian's generic kernel instead of the cloud kernel, whatever the devices; and modules besides their drivers'.
    generic_kernel: bool = False
    modules: tuple[str, ...] = ()
    #: A VGA: "std" on PCI, "none"; "any" on PCI where there is PCI anyway. None: by guest and displays.
    vga: Literal["std", "any", "none"] | None = None
    displays: tuple[DisplayOptions, ...] = ()
    #: The guest's writes go into the images of its drives, and not only beside them.
    write: bool = False
