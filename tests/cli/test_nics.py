"""-nic, and -netdev with -device: what is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from trapgate.cli.main import run_command
from trapgate.cli.nics import parse_nic, parse_nics
from trapgate.devices.networks.forward import Forward
from trapgate.devices.networks.hub import hubs_folder
from trapgate.lab.networks import mac_of
from trapgate.lab.options import NicOptions

MAC = bytes.fromhex("525400aabbcc")


@pytest.mark.parametrize(
    ("text", "nic"),
    [
        ("user", NicOptions(network="user")),
        ("user,model=virtio-net-pci,mac=52:54:00:AA:bb:cc", NicOptions(network="user", model="virtio", mac=MAC)),
        ("user,model=e1000,restrict=on", NicOptions(network="user", model="e1000", is_restricted=True)),
        ("user,offload=off,mtu=9000", NicOptions(network="user", offloads=False, mtu=9000)),
        (
            "user,hostfwd=tcp::2222-:22,hostfwd=udp:127.0.0.1:53-10.0.2.16:5353",
            NicOptions(
                network="user",
                forwards=(
                    Forward("tcp", "0.0.0.0", 2222, "10.0.2.15", 22),
                    Forward("udp", "127.0.0.1", 53, "10.0.2.16", 5353),
                ),
            ),
        ),
        (
            "user,hostfwd=:2222-:22",
            NicOptions(network="user", forwards=(Forward("tcp", "0.0.0.0", 2222, "10.0.2.15", 22),)),
        ),
        ("tap,ifname=tap0,pcap=a,,b.pcap", NicOptions(network="tap", name="tap0", capture=Path("a,b.pcap"))),
        ("tap=tap0", NicOptions(network="tap", name="tap0")),
        ("hub,name=lab", NicOptions(network="hub", name="lab")),
        ("hub=lab,model=virtio", NicOptions(network="hub", name="lab", model="virtio")),
        ("socket,listen=:1234", NicOptions(network="socket", listen=("127.0.0.1", 1234))),
        ("socket,connect=example.org:99", NicOptions(network="socket", connect=("example.org", 99))),
        (
            "socket,udp=127.0.0.1:5000,localaddr=127.0.0.1:5001",
            NicOptions(network="socket", remote=("127.0.0.1", 5000), local=("127.0.0.1", 5001)),
        ),
        ("none", NicOptions(network="none")),
    ],
)  # fmt: skip
def test_cards(text: str, nic: NicOptions) -> None:
    assert parse_nic(text) == nic


def test_pairs_of_network_and_card() -> None:
    nics, others = parse_nics(
        ["user", "none"],
        ["user,id=n0,hostfwd=tcp::1-:2", "socket,id=n1,connect=:9,mtu=9000"],
        ["virtio-net-pci,netdev=n1,mac=52:54:00:aa:bb:cc", "virtio-rng-pci", "e1000,netdev=n0"],
    )
    assert nics == (
        NicOptions(network="socket", connect=("127.0.0.1", 9), model="virtio", mac=MAC, mtu=9000),
        NicOptions(network="user", model="e1000", forwards=(Forward("tcp", "0.0.0.0", 1, "10.0.2.15", 2),)),
        NicOptions(network="user"),
    )
    assert others == ["virtio-rng-pci"]
    assert parse_nics(None, None, None) == ((), [])


def test_default_addresses_count_up() -> None:
    nic = NicOptions(network="user")
    assert [mac_of(nic, n).hex(":") for n in (0, 1, 9)] == [
        "52:54:00:12:34:56", "52:54:00:12:34:57", "52:54:00:12:34:5f",
    ]  # fmt: skip


@pytest.mark.engine
@pytest.mark.parametrize("technique", ["bare", "nested-tagged"])
def test_networks_are_closed_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, technique: str) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    capture = tmp_path / "net.pcap"
    words = ["-nic", f"hub=lab,pcap={capture}", "-nic", "hub=lab", "--technique", technique]
    assert run_command(["run", "--serial", "none", "--max-instructions", "1000", *words]) == 124
    assert not (hubs_folder() / "lab").exists()
    assert len(capture.read_bytes()) == 24
