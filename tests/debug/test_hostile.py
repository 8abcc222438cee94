"""Clients that are no gdb: garbage, huge lengths, floods, connections that go away. The guest runs on."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from debug.test_stub import FOR_EVER, LOOP
from debug.world import Client, world
from trapgate.debug.channels import MOST_WAITING
from trapgate.debug.gdb.packets import frame

pytestmark = pytest.mark.engine

#: Packets that mean nothing, or something that cannot be.
STRANGE = (
    "m", "m,", "m0", "m0,", "mzz,1", "m-1,1", "m0,-1", "mffffffffffffffffffffffffffffffffff,1", "M0,1", "M0,1:",
    "M0,1:0", "M0,2:zz", "X0,5:abc", "p", "pfff", "pzz", "P", "P0", "P0=", "P0=00", "Pfff=00", "G", "Gzz", "G0", "Z",
    "Z0", "Z0,0", "Z9,0,1", "Z2,0,0", "Z2,0,ffffffffffff", "z0,zz,1", "vCont;x", "vCont;", "vFile:open:0",
    "qXfer:features:read:other:0,1", "qXfer:features:read:target.xml:zz,1",
    "qXfer:features:read:target.xml:fffffff,1", "qRcmd,z", "qRcmd,6", "Qqemu.PhyMemMode:", "bx", "b", "\x00", "!",
    "R0", "vMustReplyEmpty", "qSymbol::", "H", "i", "t", "A",
)  # fmt: skip


def test_strange_packets_are_answered(tmp_path: Path) -> None:
    with world(tmp_path, LOOP) as w:
        w.start()
        c = w.connect()
        before = c.ask("g")
        for packet in STRANGE:
            answer = c.ask(packet)
            assert answer in ("", "OK", "l") or answer[0] == "E", (packet, answer)
        assert c.ask("g") == before
        assert len(c.ask("m0,ffffffff")) <= 0x4000
        assert c.ask("c") == "W00"


def test_random_packets(tmp_path: Path) -> None:
    random_ = random.Random(7)
    letters = "?gGpPmMXzZHTqQvD!\x00,;:=0123456789abcdef"
    with world(tmp_path, LOOP) as w:
        w.start()
        c = w.connect()
        for _ in range(3000):
            text = "".join(random_.choice(letters) for _ in range(random_.randrange(1, 20)))
            if text[0] in "Dc" or text.startswith("vKill"):
                continue
            c.ask(text)
        w.session.quit()
        w.finish()


def test_noise_and_connections_that_go_away(tmp_path: Path) -> None:
    random_ = random.Random(3)
    with world(tmp_path, FOR_EVER, stopped=False) as w:
        w.start()
        for _ in range(20):
            noise = socket.socket(socket.AF_UNIX)
            noise.connect(str(w.path))  # waits where others are waiting
            noise.settimeout(20)
            try:
                noise.sendall(random_.randbytes(random_.randrange(1, 60000)))
                if random_.randrange(2):
                    noise.sendall(frame(b"m0,4000") * 50)
            except OSError:
                pass  # it was thrown out
            noise.close()
        c = Client(w.path)
        assert c.ask("?") == "T05thread:01;"
        c.close()


def test_a_client_that_takes_no_answers_is_dropped(tmp_path: Path) -> None:
    with world(tmp_path, FOR_EVER, stopped=False) as w:
        w.start()
        flood = socket.socket(socket.AF_UNIX)
        flood.connect(str(w.path))
        flood.settimeout(20)
        packet = frame(b"g") * 100
        with pytest.raises(OSError, match=r"."):  # broken pipe, or reset
            flood.sendall(packet * (MOST_WAITING // 1000))
        flood.close()
        c = Client(w.path)
        assert c.ask("?") == "T05thread:01;"
        assert c.ask("k") == "OK"
        w.finish()


def test_too_many_breakpoints(tmp_path: Path) -> None:
    with world(tmp_path, LOOP) as w:
        w.start()
        c = w.connect()
        answers = {c.ask(f"Z0,{address:x},1") for address in range(0x10000, 0x10000 + 4200)}
        assert answers == {"OK", "E1c"}
        assert c.ask("c") == "W00"
