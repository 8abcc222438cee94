"""An initramfs that makes a guest of a Linux kernel and busybox: a shell on the console, or one command.

The archive is the `newc` form of cpio (Linux Documentation/driver-api/early-userspace/buffer-format.rst). It is not
compressed: the guest then copies it instead of inflating it, which takes fewer of its instructions. The same inputs
give the same bytes.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence

from trapgate.machine.errors import MachineError

DIRECTORY = 0o040755
EXECUTABLE = 0o100755
REGULAR = 0o100644
SYMBOLIC_LINK = 0o120777
CHARACTER_DEVICE = 0o020600

#: Start of busybox's table of applet names: zero-terminated, sorted, closed by an empty name.
APPLET_TABLE_START = b"\0[\0[[\0"
APPLET_NAME = re.compile(rb"[a-z0-9_\[.-]{1,32}\Z")
#: What INIT_SCRIPT itself calls; a busybox without them cannot be the guest's userland.
REQUIRED_APPLETS = ("cat", "cttyhack", "hostname", "mount", "poweroff", "printf", "setsid", "sh", "stty")

COMMAND_FILE = "trapgate/command"
TOKEN_FILE = "trapgate/token"
TERMINAL_FILE = "trapgate/terminal"
#: Begins both marker lines: the ASCII record separator, which text does not contain.
MARKER_PREFIX = b"\x1e"

INIT_SCRIPT = r"""#!/bin/sh
export PATH=/bin HOME=/root TERM=linux USER=root LOGNAME=root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
hostname trapgate
@MODULES@cd /root
if [ ! -f /trapgate/command ]; then
    echo 4 > /proc/sys/kernel/printk
    echo "trapgate: a shell; exit or poweroff -f ends the run"
    stty $(cat /trapgate/terminal)
    setsid cttyhack sh -l
    poweroff -f
fi
# From here on the console carries the command's bytes alone: no kernel messages, no newline translation.
echo 1 > /proc/sys/kernel/printk
stty raw -echo
token=$(cat /trapgate/token)
printf '\036%s:start\n' "$token"
sh /trapgate/command < /dev/null
printf '\036%s:status:%d\n' "$token" $?
# Setting the terminal waits until the UART has sent everything.
stty sane
poweroff -f
"""

#: In INIT_SCRIPT's place of modules, where there are any: their names are in the order in which they are to be loaded.
#: Words of the kernel's command line such as libata.dma=0 are their parameters, as modprobe has it.
LOAD_MODULES = """for module in $(cat /trapgate/modules); do
    set --
    for word in $(cat /proc/cmdline); do
        case $word in $module.*) set -- "$@" "${word#*.}";; esac
    done
    insmod /lib/modules/$module.ko "$@"
done
set --
"""
MODULES_FILE = "trapgate/modules"

#: What busybox's udhcpc calls with what a DHCP server says, in the variables that its documentation names.
DHCP_SCRIPT = """#!/bin/sh
case $1 in
deconfig) ip addr flush dev $interface; ip link set $interface up;;
bound|renew)
    ip addr flush dev $interface
    ip addr add $ip/$mask dev $interface
    for gateway in $router; do ip route replace default via $gateway dev $interface; done
    for server in $dns; do echo "nameserver $server"; done > /etc/resolv.conf;;
esac
"""
#: Files of a guest with a network card.
NETWORK_FILES = {"etc/udhcpc/default.script": DHCP_SCRIPT.encode()}


class NotBusybox(MachineError):
    """The program given as busybox has no applet table, or lacks what the guest's init needs."""

    def __init__(self, got: str) -> None:
        super().__init__(
            f"wanted a static busybox with {', '.join(REQUIRED_APPLETS)}, got {got}: "
            "install Debian's busybox-static or name another busybox"
        )


class CpioArchive:
    """Writes cpio `newc` entries in the order of the calls, with time 0, user 0 and inode numbers counted from 1."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = 0

    def add(self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        """Add `name` (no leading slash) of file type and permissions `mode`; `device` is major and minor number."""
        self._inode += 1
        encoded = name.encode("utf-8", "surrogateescape") + b"\0"
        links = 2 if mode & 0o170000 == 0o040000 else 1
        fields = (self._inode, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(encoded), 0)
        self._data += b"070701" + "".join(f"{field:08x}" for field in fields).encode() + encoded
        self._pad()
        self._data += content
        self._pad()

    def finish(self) -> bytes:
        """The whole archive, closed by its trailer."""
        self._inode = -1
        self.add("TRAILER!!!", 0)
        return bytes(self._data)

    def _pad(self) -> None:
        self._data += bytes(-len(self._data) % 4)


def applet_names(busybox: bytes) -> list[str]:
    """The applets compiled into `busybox`, read from its own table so that it need not run here. May be empty."""
    start = busybox.find(APPLET_TABLE_START)
    names: list[str] = []
    position = start + 1
    while start >= 0:
        end = busybox.find(b"\0", position, position + 40)
        name = busybox[position : max(end, position)]
        if not APPLET_NAME.match(name):
            break
        names.append(name.decode("ascii"))
        position = end + 1
    return names


def output_token(command: Sequence[str]) -> str:
    """The word in the marker lines around the output of `command`: a hash of it, so that other output differs."""
    return hashlib.sha256("\0".join(command).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def build_initramfs(
    busybox: bytes,
    command: Sequence[str] | None = None,
    files: Mapping[str, bytes] | None = None,
    terminal_size: tuple[int, int] = (24, 80),
    modules: Mapping[str, bytes] | None = None,
) -> bytes:
    """The archive's bytes.

    Without `command` the guest gives an interactive shell. With it, the guest prints a start marker, runs the words of
    `command` with standard input empty, prints a marker with its exit status and powers off; ConsoleSplitter reads
    that. `files` adds executable files by path, their folders included. `terminal_size` is what the shell takes for its
    terminal's rows and columns, which a serial line does not tell. `modules` are kernel modules by name, which are
    loaded in their order. Raises NotBusybox.
    """
    applets = applet_names(busybox)
    missing = [name for name in REQUIRED_APPLETS if name not in applets]
    if not busybox.startswith(b"\x7fELF") or missing:
        got = f"one without {', '.join(missing)}" if applets else f"{len(busybox)} bytes that are no busybox"
        raise NotBusybox(got)
    archive = CpioArchive()
    folders = ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "trapgate", "usr", "var"]
    for folder in folders:
        archive.add(folder, DIRECTORY)
    archive.add("dev/console", CHARACTER_DEVICE, device=(5, 1))
    archive.add("init", EXECUTABLE, INIT_SCRIPT.replace("@MODULES@", LOAD_MODULES if modules else "").encode())
    archive.add("etc/passwd", REGULAR, b"root:x:0:0:root:/root:/bin/sh\n")
    archive.add("etc/group", REGULAR, b"root:x:0:\n")
    archive.add("bin/busybox", EXECUTABLE, busybox)
    for name in applets:
        if name != "busybox":
            archive.add(f"bin/{name}", SYMBOLIC_LINK, b"busybox")
    archive.add("sbin", SYMBOLIC_LINK, b"bin")
    archive.add("usr/bin", SYMBOLIC_LINK, b"../bin")
    archive.add("usr/sbin", SYMBOLIC_LINK, b"../bin")
    if command is None:
        rows, columns = terminal_size
        archive.add(TERMINAL_FILE, REGULAR, f"rows {rows} cols {columns}\n".encode())
    else:
        # exec keeps the status exact: a command killed by signal n gives 128 + n, an unknown one 127.
        words = " ".join(shlex.quote(word) for word in command)
        archive.add(COMMAND_FILE, REGULAR, f"exec {words}\n".encode("utf-8", "surrogateescape"))
        archive.add(TOKEN_FILE, REGULAR, output_token(command).encode() + b"\n")
    packed = {f"lib/modules/{name}.ko": content for name, content in (modules or {}).items()}
    if modules:
        archive.add(MODULES_FILE, REGULAR, "".join(f"{name}\n" for name in modules).encode())
    _add_files(archive, {**(files or {}), **packed}, set(folders))
    return archive.finish()


def _add_files(archive: CpioArchive, files: Mapping[str, bytes], folders: set[str]) -> None:
    for path in sorted(files):
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folder not in folders:
                folders.add(folder)
                archive.add(folder, DIRECTORY)
        archive.add("/".join(parts), EXECUTABLE, files[path])
