"""gdb's protocol without gdb: registers, memory, breakpoints, watchpoints, steps, under each technique."""

from __future__ import annotations

from pathlib import Path

import pytest

from debug.world import World, world
from trapgate import guests
from trapgate.firmware.raw import RawImage
from trapgate.firmware.recognise import recognise

pytestmark = pytest.mark.engine

#: mov cx, 5; again: inc ax; mov [500h], ax; dec cx; jnz again; mov al, 0; out F4h, al
LOOP = RawImage(bytes.fromhex("b9 05 00 40 a3 00 05 49 75 f9 b0 00 e6 f4"))
START, AGAIN, STORE, END = 0x7C00, 0x7C03, 0x7C04, 0x7C0A
#: again: inc ax; jmp again
FOR_EVER = RawImage(bytes.fromhex("40 eb fd"))
#: cli; hlt
HALT = RawImage(bytes.fromhex("fa f4"))
RIP, RAX, RCX, EFLAGS = 16, 0, 2, 17
TECHNIQUES = ("bare", "software", "shadow", "shadow-tagged", "nested", "nested-tagged")
#: One of each kind, for what takes long.
SOME = ("bare", "shadow-tagged", "nested-tagged")


def test_the_description_names_what_g_answers(tmp_path: Path) -> None:
    with world(tmp_path, LOOP) as w:
        w.start()
        c = w.connect()
        assert "qXfer:features:read+" in c.ask("qSupported:multiprocess+;swbreak+")
        xml, at = "", 0
        while True:
            part = c.ask(f"qXfer:features:read:target.xml:{at:x},200")
            xml += part[1:]
            at += len(part) - 1
            if part[0] == "l":
                break
        bits = sum(int(piece.split('"')[0]) for piece in xml.split('bitsize="')[1:])
        assert len(c.ask("g")) == bits // 4
        assert [name in xml for name in ('"rip"', '"fs_base"', '"cr3"', '"efer"', '"st7"', '"xmm15"', '"k_gs_base"')]
        assert "i386:x86-64" in xml


def test_a_processor_without_long_mode_has_the_short_description(tmp_path: Path) -> None:
    with world(tmp_path, LOOP, cpu="pentium3") as w:
        w.start()
        c = w.connect()
        xml = c.ask("qXfer:features:read:target.xml:0,4000")
        assert "<architecture>i386</architecture>" in xml
        assert '"eip"' in xml
        assert '"r8"' not in xml
        assert '"xmm7"' in xml
        assert '"xmm8"' not in xml
        assert c.register(8) == START


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_breakpoints_steps_and_the_end(technique: str, tmp_path: Path) -> None:
    with world(tmp_path, LOOP, technique) as w:
        w.start()
        c = w.connect()
        c.ask("qSupported:swbreak+;hwbreak+")
        assert c.ask("?") == "T05thread:01;"
        assert c.register(RIP) == START
        assert c.ask(f"Z0,{STORE:x},1") == "OK"
        for turn in range(1, 4):
            assert c.ask("c") == "T05thread:01;swbreak:;"
            assert (c.register(RIP), c.register(RAX), c.register(RCX)) == (STORE, turn, 6 - turn)
        # No memory of the guest changes.
        assert c.ask(f"m{STORE:x},3") == "a30005"
        assert c.ask("m500,2") == "0200"
        assert c.ask("s") == "T05thread:01;"
        assert c.ask("m500,2") == "0300"
        assert c.register(RIP) == STORE + 3
        assert c.ask("vCont;s:1") == "T05thread:01;"
        assert c.register(RIP) == STORE + 4
        assert c.ask(f"z0,{STORE:x},1") == "OK"
        assert c.ask(f"Z1,{END:x},1") == "OK"
        assert c.ask("vCont;c") == "T05thread:01;hwbreak:;"
        assert (c.register(RIP), c.register(RAX)) == (END, 5)
        assert c.ask("c") == "W00"
        assert w.finish() == "request"


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_watchpoints(technique: str, tmp_path: Path) -> None:
    with world(tmp_path, LOOP, technique) as w:
        w.start()
        c = w.connect()
        assert c.ask("Z2,501,1") == "OK"
        for turn in range(1, 4):
            assert c.ask("c") == "T05thread:01;watch:501;"
            assert c.ask("m500,2") == f"0{turn}00"
            assert c.register(RIP) == STORE + 3
        assert c.ask("z2,501,1") == "OK"
        assert c.ask("Z3,500,2") == "OK"  # nothing reads it
        assert c.ask("c") == "W00"


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_registers_and_memory_are_written(technique: str, tmp_path: Path) -> None:
    with world(tmp_path, LOOP, technique) as w:
        w.start()
        c = w.connect()
        assert c.ask(f"Z0,{AGAIN:x},1") == "OK"
        assert c.ask("c") == "T05thread:01;"  # swbreak: only for who knows it
        assert c.ask(f"P{RCX:x}=0100000000000000") == "OK"
        assert c.ask(f"P{RAX:x}=3412000000000000") == "OK"
        assert c.ask("M600,4:deadbeef") == "OK"
        assert c.ask(b"X604,2:}\x03}]") == "OK"
        assert c.ask("m600,6") == "deadbeef237d"
        # add ax, 2 in the place of inc ax would be too long: a dec, which the code that was decoded is not
        assert c.ask(f"M{AGAIN:x},1:48") == "OK"
        assert c.ask(f"z0,{AGAIN:x},1") == "OK"
        assert c.ask(f"Z0,{END:x},1") == "OK"
        assert c.ask("c") == "T05thread:01;"
        assert (c.register(RCX), c.register(RAX)) == (0, 0x1233)
        everything = c.ask("g")
        assert c.ask("G" + everything) == "OK"
        assert c.ask("g") == everything
        assert c.ask(f"P{RIP:x}={START.to_bytes(8, 'little').hex()}") == "OK"
        assert c.register(RIP) == START


@pytest.mark.parametrize("technique", ["bare", "software", "nested-tagged"])
def test_ctrl_c(technique: str, tmp_path: Path) -> None:
    with world(tmp_path, FOR_EVER, technique, stopped=False) as w:
        w.start()
        c = w.connect()
        assert c.ask("?") == "T05thread:01;"
        before = c.register(RAX)
        c.send(b"$c#63")
        c.send(b"\x03")
        assert c.answer() == "T02thread:01;"
        assert c.register(RIP) in (START, START + 1)
        c.send(b"$c#63")
        c.send(b"\x03")
        assert c.answer() == "T02thread:01;"
        assert c.register(RAX) != before
        c.close()
        # The guest goes on; another client finds it running, and ends it.
        c = w.connect()
        assert c.ask("?") == "T05thread:01;"
        assert c.ask("vKill;1") == "OK"
        w.finish()


@pytest.mark.parametrize("technique", ["bare", "nested-tagged", "software"])
def test_a_guest_that_has_halted_for_ever_can_still_be_looked_at(technique: str, tmp_path: Path) -> None:
    with world(tmp_path, HALT, technique) as w:
        w.start()
        c = w.connect()
        c.send(b"$c#63")
        c.send(b"\x03")
        assert c.answer() == "T02thread:01;"
        assert c.register(RIP) == START + 2
        assert bytes.fromhex(c.ask("qThreadExtraInfo,1")) == b"CPU#0 [halted]"
        assert c.ask("D") == "OK"
        assert w.finish() == "halted"


@pytest.mark.parametrize("technique", ["bare", "shadow-tagged"])
def test_a_detached_guest_runs_to_its_end(technique: str, tmp_path: Path) -> None:
    with world(tmp_path, LOOP, technique) as w:
        w.start()
        c = w.connect()
        assert c.ask(f"Z0,{END:x},1") == "OK"
        assert c.ask("D;1") == "OK"
        assert w.finish() == "request"


def test_paging_and_physical_memory(tmp_path: Path) -> None:
    image = recognise(guests.image("bench"), "bench=sieve n=1")
    with world(tmp_path, image) as w:
        w.start()
        c = w.connect()
        entry = c.register(RIP)
        assert c.ask("qqemu.PhyMemMode") == "0"
        linear = c.ask(f"m{entry:x},10")
        assert c.ask("Qqemu.PhyMemMode:1") == "OK"
        assert c.ask("qqemu.PhyMemMode") == "1"
        assert c.ask(f"m{entry:x},10") == linear
        assert c.ask("mfff000,2000") == c.ask("mfff000,1000")  # as far as RAM reaches
        assert c.ask("m1000000,1") == "E0e"
        assert c.ask("Mffffff,2:0000") == "E0e"
        # A device's registers are not read: that would change them.
        assert c.ask("mfee00020,4") == "E0e"


def counts(w: World) -> dict[str, object]:
    p = w.guest.processor
    return {
        "instructions": w.guest.instructions, "cycles": w.guest.clock.now, "exceptions": dict(p.exception_counts),
        "interrupts": dict(p.interrupt_counts), "exits": dict(p.exit_counts),
        "misses": [p.state.counter(name) for name in ("itlb_misses", "dtlb_misses", "dtlb_walk_references")],
    }  # fmt: skip


def _undisturbed(w: World) -> None:
    c = w.connect()
    assert c.ask("D") == "OK"


def _disturbed(w: World) -> None:
    """Stops of all kinds, looks at everything, and steps."""
    c = w.connect()
    c.ask("qSupported:swbreak+")
    for _ in range(300):
        assert c.ask("s").startswith("T05")
        c.ask("g")
    c.monitor("info registers")
    c.monitor("info tlb")
    for turn in range(60):
        # Where the guest has come to, some of which it comes to again.
        c.ask(f"Z{turn & 1},{w.guest.linear_rip + turn % 7:x},1")
        c.send(b"$c#63")
        c.send(b"\x03")
        if c.answer() == "W00":
            assert turn > 15
            return
        c.ask("m1000,400")
        c.ask("s")
        if turn == 30:
            c.ask("Z4,2000,8")
            for _ in range(20):
                c.ask("s")
            c.ask("z4,2000,8")
    assert c.ask("D") == "OK"


@pytest.mark.parametrize("technique", [*SOME, "software"])
def test_a_debugged_run_has_the_counts_of_any_other(technique: str, tmp_path: Path) -> None:
    image = recognise(guests.image("trapgate-guest"), "tests")
    found = []
    for number, disturb in enumerate((_undisturbed, _disturbed)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with world(folder, image, technique) as w:
            w.start()
            disturb(w)
            assert w.finish() == "request"
            found.append(counts(w))
    assert found[0] == found[1]
