"""Debian with a network card: an address by DHCP, and TCP both ways with a server of this host, sums compared.

The short test moves a megabyte on the bare machine. The long one, for each MTU and technique, wants TRAPGATE_NETWORK=N:
N megabytes each way, as whole TCP packets and as frames.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from trapgate.devices.networks.slirp_library import SlirpMissing, load_slirp
from trapgate.lab.compare import CapturedConsole
from trapgate.lab.debian import DebianUnavailable, fetch_debian
from trapgate.lab.debian_modules import fetch_generic, fetch_modules, needed_modules
from trapgate.lab.options import DEBIAN, NicOptions, RunOptions
from trapgate.lab.run import RunOutcome, run_guest

pytestmark = [pytest.mark.engine, pytest.mark.debian]
MEGABYTES = int(os.environ.get("TRAPGATE_NETWORK", "0"))
#: What the host sends is kept in the guest's memory, and sent back. The last connection ends when all of it is there.
SCRIPT = """udhcpc -n -q -i eth0 > /dev/null 2>&1 && ip -o -4 addr show eth0 && cat /sys/class/net/eth0/mtu &&
nc 10.0.2.2 PORT -e dd of=/tmp/data bs=64k 2> /dev/null && md5sum < /tmp/data &&
nc 10.0.2.2 PORT -e dd if=/tmp/data bs=64k 2> /dev/null && nc 10.0.2.2 PORT -e cat && echo good
"""


class Server:
    """Sends `data` to the first who connects, and keeps what the second sends."""

    def __init__(self, data: bytes) -> None:
        self.data, self.got = data, b""
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self.socket.accept()[0] as one:
            one.sendall(self.data)
        parts = []
        with self.socket.accept()[0] as one:
            while part := one.recv(1 << 18):
                parts.append(part)
        self.got = b"".join(parts)
        self.socket.accept()[0].close()

    def close(self) -> None:
        self._thread.join(10)
        self.socket.close()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    megabyte = hashlib.shake_128(b"network").digest(1 << 20)
    one = Server(b"".join(bytes([n]) + megabyte[1:] for n in range(request.param)))
    yield one
    one.close()


def run(script: str, nic: NicOptions, technique: str = "bare") -> tuple[list[str], RunOutcome]:
    """What Debian says to a script, by lines."""
    try:
        load_slirp()
        fetch_modules(fetch_debian(), needed_modules((), (), ("virtio",)))
        if nic.model == "e1000":
            fetch_generic(fetch_debian(), ("e1000",))
    except SlirpMissing as error:
        pytest.skip(str(error))
    except (DebianUnavailable, OSError) as error:
        pytest.skip(f"Debian's packages cannot be had here: {error}")
    options = RunOptions(
        guest=DEBIAN, nics=(nic,), technique=technique, command=("sh", "-c", script), max_instructions=60_000_000_000
    )
    console = CapturedConsole()
    outcome = run_guest(options, console)
    return bytes(console.data).decode().split("\n"), outcome


def check(lines: list[str], server: Server, mtu: int) -> None:
    assert lines[0].split()[3] == "10.0.2.15/24"
    assert lines[1:] == [str(mtu), f"{hashlib.md5(server.data).hexdigest()}  -", "good", ""]
    server.close()
    assert server.got == server.data


@pytest.mark.parametrize("server", [1], indirect=True)
def test_debian_moves_a_megabyte_each_way(server: Server, tmp_path: Path) -> None:
    nic = NicOptions(network="user", capture=tmp_path / "net.pcap")
    lines, outcome = run(SCRIPT.replace("PORT", str(server.port)), nic)
    check(lines, server, 1500)
    counts = outcome.statistics.device_counts
    assert counts["net0"]["frames_sent"] == counts["net0-user"]["frames_out"]
    assert counts["net0"]["frames_received"] == counts["net0-user"]["frames_in"]
    assert not outcome.statistics.device_faults
    # The capture has every frame, in the order of modelled time.
    data, place, times = (tmp_path / "net.pcap").read_bytes(), 24, []
    while place < len(data):
        seconds, nanoseconds, length, _ = struct.unpack_from("<IIII", data, place)
        times.append(seconds * 10**9 + nanoseconds)
        place += 16 + length
    assert place == len(data)
    assert times == sorted(times)
    assert len(times) == counts["net0"]["frames_sent"] + counts["net0"]["frames_received"]


@pytest.mark.skipif(not MEGABYTES, reason="long: set TRAPGATE_NETWORK to a number of megabytes to run it")
@pytest.mark.parametrize("technique", ["bare", "nested-tagged", "shadow-tagged", "software"])
@pytest.mark.parametrize(("mtu", "offloads"), [(1500, True), (1500, False), (9000, False)])
@pytest.mark.parametrize("server", [MEGABYTES], indirect=True)
def test_debian_moves_many_megabytes_each_way(server: Server, mtu: int, offloads: bool, technique: str) -> None:
    nic = NicOptions(network="user", mtu=mtu, offloads=offloads)
    lines, outcome = run(SCRIPT.replace("PORT", str(server.port)), nic, technique)
    check(lines, server, mtu)
    counts = outcome.statistics.device_counts["net0"]
    frames = (MEGABYTES << 20) / (mtu - 52)
    for direction in ("sent", "received"):
        assert counts[f"bytes_{direction}"] > MEGABYTES << 20
        assert (counts[f"frames_{direction}"] < frames) == offloads
    assert not outcome.statistics.device_faults


@pytest.mark.skipif(not MEGABYTES, reason="long: set TRAPGATE_NETWORK to a number of megabytes to run it")
@pytest.mark.parametrize("technique", ["bare", "nested-tagged", "shadow-tagged", "software"])
@pytest.mark.parametrize("mtu", [1500, 9000])
@pytest.mark.parametrize("server", [MEGABYTES], indirect=True)
def test_debian_drives_an_e1000(server: Server, mtu: int, technique: str) -> None:
    """The unmodified driver of the generic kernel, with checksums and segmentation in the card."""
    nic = NicOptions(network="user", model="e1000", mtu=mtu)
    script = SCRIPT.replace("udhcpc", f"ip link set eth0 mtu {mtu} && udhcpc", 1)
    lines, outcome = run(script.replace("PORT", str(server.port)), nic, technique)
    check(lines, server, mtu)
    counts = outcome.statistics.device_counts["net0"]
    for direction in ("sent", "received"):
        assert counts[f"bytes_{direction}"] > MEGABYTES << 20
        assert counts[f"bytes_{direction}"] / counts[f"frames_{direction}"] < mtu + 18
    assert not outcome.statistics.device_faults
