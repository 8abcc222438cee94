"""TCP between Debian and the host, both ways, over virtio-net and libslirp: CPU time against QEMU's on the same guest.

Each run boots once, gets its address by DHCP, and moves --megabytes each way. What counts is the emulator's CPU time
from the connection to its end, as /proc has it. The host checks the sum of what the guest sends, the guest counts what
it gets (tests/lab/test_debian_network.py compares that byte for byte).
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import CONSOLE, QEMU, TRAPGATE, BenchmarkFailed, Run, parser, qemu, quiet, report

from trapgate.lab.debian import fetch_debian
from trapgate.lab.debian_modules import fetch_modules, needed_modules
from trapgate.lab.initramfs import NETWORK_FILES, build_initramfs

TICKS = os.sysconf("SC_CLK_TCK")
PIECE = 1 << 16


def cpu_seconds(process: int) -> float:
    """CPU time of a process so far, all of its threads (proc(5), fields utime and stime)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Server:
    """The host's side: sends to a guest that connects first, then takes what it sends."""

    def __init__(self, megabytes: int) -> None:
        self.megabytes = megabytes
        self.data = hashlib.shake_128(b"trapgate").digest(1 << 20) * megabytes
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def serve(self, process: int) -> tuple[dict[str, float], dict[str, float]]:
        """CPU and wall-clock seconds of the emulator for each direction."""
        cpu, wall = {}, {}
        self.socket.settimeout(300)
        for direction, work in (("host to guest", self._give), ("guest to host", self._take)):
            connection, _ = self.socket.accept()
            began, started = cpu_seconds(process), time.monotonic()
            with connection:
                work(connection)
            cpu[direction], wall[direction] = cpu_seconds(process) - began, time.monotonic() - started
        # The guest stays until all of it is here: it waits for the end of this connection.
        self.socket.accept()[0].close()
        return cpu, wall

    def _give(self, connection: socket.socket) -> None:
        connection.sendall(self.data)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)

    def _take(self, connection: socket.socket) -> None:
        """The guest sends zeros."""
        digest = hashlib.sha256()
        while piece := connection.recv(1 << 18):
            digest.update(piece)
        if digest.digest() != hashlib.sha256(bytes(len(self.data))).digest():
            raise SystemExit("wanted the bytes that were sent, got others")


def script(port: int, mtu: int, megabytes: int) -> str:
    """What the guest does."""
    return (
        f"udhcpc -n -q -i eth0 >/dev/null 2>&1; ip link set eth0 mtu {mtu}; "
        f"nc 10.0.2.2 {port} -e dd of=/dev/null bs=64k 2>/dev/null; "
        f"test $(cat /sys/class/net/eth0/statistics/rx_bytes) -ge $(({megabytes} << 20)) && echo it has come; "
        f"nc 10.0.2.2 {port} -e dd if=/dev/zero bs=64k count=$(({megabytes} << 4)) 2>/dev/null; "
        f"nc 10.0.2.2 {port} -e cat >/dev/null; echo it is done"
    )


def measure(command: Sequence[str], server: Server) -> tuple[dict[str, float], dict[str, float]]:
    """One run of an emulator."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            times = server.serve(process.pid)
            process.wait(timeout=300)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        text = output.read()
    if b"it has come" not in text or b"it is done" not in text:
        raise BenchmarkFailed(command, "'it has come' and 'it is done'", Run(0.0, 0, process.returncode, text))
    return times


def main() -> None:
    """Run and report."""
    options = parser(__doc__ or "", runs=3)
    options.add_argument("--megabytes", type=int, default=64, help="each way (default 64)")
    options.add_argument("--mtu", type=int, default=1500, help="of the guest's interface (default 1500)")
    options.add_argument("--nic", default="", help="more words for trapgate's -nic user")
    arguments = options.parse_args()
    is_quiet = quiet()
    guest, modules = fetch_modules(fetch_debian(), needed_modules((), (), ["virtio"]))
    server = Server(arguments.megabytes)
    words = ["sh", "-c", script(server.port, arguments.mtu, arguments.megabytes)]
    rows: dict[str, dict[str, list[float]]] = {}
    walls: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        initramfs = Path(folder) / "initramfs"
        initramfs.write_bytes(build_initramfs(guest.busybox.read_bytes(), words, NETWORK_FILES, modules=modules))
        nic = f"user,model=virtio,mtu={arguments.mtu}" + (f",{arguments.nic}" if arguments.nic else "")
        commands = {"trapgate": [*TRAPGATE, "run", "debian", "-nic", nic, "--", *words]}
        if QEMU:
            commands["qemu"] = qemu(guest.kernel, initramfs, "-nic", "user,model=virtio-net-pci")
        for _ in range(arguments.runs):
            for name, command in commands.items():
                cpu, wall = measure(command, server)
                for direction in cpu:
                    rows.setdefault(direction, {}).setdefault(name, []).append(cpu[direction])
                    walls.setdefault(direction, {}).setdefault(name, []).append(wall[direction])
    title = f"{arguments.megabytes} MB by TCP over virtio-net, MTU {arguments.mtu}"
    report(f"{title} (CPU time)", rows, arguments.json, is_quiet)
    report(f"{title} (wall-clock time)", walls, None, is_quiet)
    for direction, times in rows.items():
        for name, seconds in times.items():
            CONSOLE.print(f"{direction}, {name}: {arguments.megabytes / min(seconds):.0f} MB per CPU second at best")


if __name__ == "__main__":
    main()
