"""Debian on trapgate and on another machine, on one cable: QEMU by a stream and by datagrams, trapgate by a hub.

The peer takes a file by TCP and answers with its sum. Two boots each; wants TRAPGATE_NETWORK, as test_debian_network.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from trapgate.lab.debian import DebianUnavailable, fetch_debian
from trapgate.lab.debian_modules import fetch_modules, needed_modules
from trapgate.lab.initramfs import NETWORK_FILES, build_initramfs
from trapgate.lab.options import NicOptions

from .test_debian_network import MEGABYTES, run

pytestmark = [
    pytest.mark.engine,
    pytest.mark.debian,
    pytest.mark.skipif(not MEGABYTES, reason="long: set TRAPGATE_NETWORK to a number of megabytes to run it"),
]
LOCAL = "127.0.0.1"
UP = "ip addr add 10.9.0.HERE/24 dev eth0; ip link set eth0 up;"
#: Listens once, and stays until the answer has gone.
PEER = UP.replace("HERE", "1") + "nc -l -p 7 -e md5sum; sleep 1"
OURS = (
    UP.replace("HERE", "2")
    + f"""until ping -c 1 -W 1 10.9.0.1 > /dev/null; do :; done
dd if=/dev/urandom of=/tmp/data bs=64k count={MEGABYTES << 4} 2> /dev/null
md5sum < /tmp/data
nc 10.9.0.1 7 < /tmp/data"""
)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind((LOCAL, 0))
        return int(one.getsockname()[1])


def qemu(folder: Path, nic: str) -> list[str]:
    """QEMU with Debian as the peer."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    try:
        guest, modules = fetch_modules(fetch_debian(), needed_modules((), (), ("virtio",)))
    except (DebianUnavailable, OSError) as error:
        pytest.skip(f"Debian's packages cannot be had here: {error}")
    initramfs = folder / "initramfs"
    initramfs.write_bytes(
        build_initramfs(guest.busybox.read_bytes(), ("sh", "-c", PEER), NETWORK_FILES, modules=modules)
    )
    return [
        program, "-accel", "tcg", "-M", "pc", "-m", "256", "-nographic", "-no-reboot", "-vga", "none", "-nic",
        f"{nic},model=virtio-net-pci,mac=52:54:00:99:99:99", "-kernel", str(guest.kernel), "-initrd", str(initramfs),
        "-append", "console=ttyS0",
    ]  # fmt: skip


def trapgate(nic: str) -> list[str]:
    """trapgate with Debian as the peer."""
    return [
        sys.executable, "-m", "trapgate", "run", "debian", "-nic", f"{nic},mac=52:54:00:99:99:99", "--",
        "sh", "-c", PEER,
    ]  # fmt: skip


def wait_for_listener(port: int) -> None:
    """Until a socket listens at the port (proc(5), /proc/net/tcp)."""
    end = time.monotonic() + 30
    while f":{port:04X} 00000000:0000 0A" not in Path("/proc/net/tcp").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)


def check(peer: Sequence[str], nic: NicOptions, environment: dict[str, str] | None = None) -> None:
    """Both sums are the same, and both ends see the same frames."""
    with subprocess.Popen(peer, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment) as process:
        try:
            if nic.connect is not None:
                wait_for_listener(nic.connect[1])
            lines, outcome = run(OURS, nic)
        finally:
            process.kill()
    assert len(lines) == 3
    assert lines[0].endswith("  -")
    assert lines[0] == lines[1]
    counts = outcome.statistics.device_counts["net0"]
    assert counts["bytes_sent"] > MEGABYTES << 20


def test_a_stream_to_qemu(tmp_path: Path) -> None:
    port = free_port()
    check(qemu(tmp_path, f"socket,listen={LOCAL}:{port}"), NicOptions(network="socket", connect=(LOCAL, port)))


def test_datagrams_to_qemu(tmp_path: Path) -> None:
    ours, theirs = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    nic = NicOptions(network="socket", remote=(LOCAL, theirs), local=(LOCAL, ours))
    check(qemu(tmp_path, f"socket,udp={LOCAL}:{ours},localaddr={LOCAL}:{theirs}"), nic)


@pytest.mark.parametrize("mtu", [1500, 9000])
def test_a_hub_between_two_guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mtu: int) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    check(trapgate(f"hub=lab,mtu={mtu}"), NicOptions(network="hub", name="lab", mtu=mtu), dict(os.environ))
