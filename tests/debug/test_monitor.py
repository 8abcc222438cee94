"""The monitor's commands, their layouts, and what they do to a guest."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from debug.test_stub import END, FOR_EVER, LOOP, START, STORE, counts
from debug.world import world
from trapgate import guests
from trapgate.api.machine import native_code
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.boards.pc import PcConfig
from trapgate.boards.pci import NicConfig
from trapgate.debug.errors import CommandError
from trapgate.debug.guest import BareGuest
from trapgate.debug.monitor import devices
from trapgate.debug.monitor.keys import combination
from trapgate.firmware.raw import RawImage
from trapgate.firmware.recognise import recognise
from trapgate.machine.console import NullConsole
from trapgate.machine.network import NoLink

pytestmark = pytest.mark.engine

#: Waits for the power button, IRQ 9, and then turns the machine off: S5.
POWERED_DOWN = RawImage(
    bytes.fromhex(
        "fa"  # cli
        " c7 06 c4 01 25 7c  c7 06 c6 01 00 00"  # vector 71h: 0000:7C25
        " ba 02 06 b8 00 01 ef"  # PM1_EN: PWRBTN_EN
        " e4 21 24 fb e6 21  e4 a1 24 fd e6 a1"  # the cascade and IRQ 9
        " fb f4 eb fd 90"  # sti; wait: hlt; jmp wait
        " ba 00 06 ed f6 c4 01 74 f9"  # 7C25h: until PM1_STS has PWRBTN_STS
        " ba 04 06 b8 00 34 ef f4"  # SLP_TYP 5, SLP_EN
    )
)
#: Waits for a key and leaves with its scan code: in al, 64h; test al, 1; jz 0; in al, 60h; out F4h, al
KEY = RawImage(bytes.fromhex("e4 64 a8 01 74 fa e4 60 e6 f4"))


def test_layouts(tmp_path: Path) -> None:
    with world(tmp_path, LOOP) as w:
        say = w.session.command
        lines = say("info registers").split("\n")
        assert lines[1] == "CPU#0"
        assert lines[2] == "EAX=00000000 EBX=00000000 ECX=00000000 EDX=00000080"
        assert lines[4] == "EIP=00007c00 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0"
        assert lines[6] == "CS =0000 00000000 0000ffff 00009300"
        assert "EFER=0000000000000000" in lines
        assert "FCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80" in lines
        assert say("info status") == "VM status: paused\n"
        assert say("info mem") == say("info tlb") == "PG disabled\n"
        assert say("info pci") == "PCI not found\n"
        assert say("info snapshots") == "There is no snapshot available.\n"
        pic = say("info pic").split("\n")
        assert pic[1] == "  pin 0  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical"
        assert pic[-2] == "pic0: irr=01 imr=fb isr=00 hprio=0 irq_base=08 rr_sel=0 elcr=00 fnm=0"
        assert say("xp /2i 0x7c03") == (
            "0x00007c03:  40                       inc %ax\n0x00007c04:  a3 00 05                 mov %ax,0x500\n"
        )
        assert say("x /2xw 0x7c00") == "0000000000007c00: 0x400005b9 0x490500a3\n"
        assert say("x/3xb 0x7c00") == "0000000000007c00: 0xb9 0x05 0x00\n"
        assert say("xp /2dh 0x7c08") == "0000000000007c08: 63861   176\n"
        assert say("xp /2ob 0x7c08") == "0000000000007c08: 0165 0371\n"
        assert say("xp /2cb 0x7c07") == "0000000000007c07: 'I' 'u'\n"
        assert say("x /1xg 0xfffffff0") == "00000000fffffff0: Cannot access memory\n"
        assert say("p $pc") == "0x7c00\n"
        assert say("p /d 2+3*(4-1)") == "11\n"
        assert say("p ~0 & 0xff | 1 << 2").startswith("invalid char '<' in expression\n")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("", ""),
        ("foo", "unknown command: 'foo'\n"),
        ("info foo", "unknown command: 'info foo'\nTry \"help info\" for more information\n"),
        ("x", 'unexpected end of expression\nTry "help x" for more information\n'),
        ("x /3s 0", "invalid char in format: 's'\nTry \"help x\" for more information\n"),
        ("x /99999999x 0", 'at most 65536 units at a time\nTry "help x" for more information\n'),
        ("p $foo", 'unknown register\nTry "help p" for more information\n'),
        ("p (1", "')' expected\nTry \"help p\" for more information\n"),
        ("p 1 2", "unexpected '2' in an expression\nTry \"help p\" for more information\n"),
        ("p " + "(" * 100, 'unexpected end of expression\nTry "help p" for more information\n'),
        ("p 1/0", 'division by zero\nTry "help p" for more information\n'),
        ("quit now", 'extraneous characters at the end of line\nTry "help quit" for more information\n'),
        ("sendkey ctrl-zz", 'invalid parameter: zz\nTry "help sendkey" for more information\n'),
        ("savevm", 'wanted the name of a file\nTry "help savevm" for more information\n'),
        ("screendump x.png", 'there is no display adapter\nTry "help screendump" for more information\n'),
        ("help xp", "xp /fmt addr -- physical memory dump starting at 'addr'\n"),
        ("help foo", ""),
    ],
)
def test_unknown_words_get_one_clear_answer(line: str, answer: str, tmp_path: Path) -> None:
    with world(tmp_path, LOOP) as w:
        assert w.session.command(line) == answer


def test_paging_is_shown_as_qemu_shows_it(tmp_path: Path) -> None:
    with world(tmp_path, recognise(guests.image("bench"), "bench=sieve n=50")) as w:
        w.start()
        c = w.connect()
        c.send(b"$c#63\x03")
        assert c.answer() == "T02thread:01;"
        if not w.guest.has_paging:  # looked at before it had begun
            c.send(b"$c#63\x03")
            assert c.answer() == "T02thread:01;"
        ranges = c.monitor("info mem")
        assert ranges.startswith("0000000000000000-")
        assert ranges.split("\n")[0].endswith("rw")
        first = c.monitor("info tlb").split("\n")[0]
        linear, physical, rights = first.split()
        assert (linear, physical, len(rights), rights[-1]) == ("0000000000000000:", "0000000000000000", 9, "W")
        assert c.monitor("info modelled-tlb").startswith("data L1: ")
        w.session.quit()


def test_stop_and_cont_and_counts(tmp_path: Path) -> None:
    with world(tmp_path, FOR_EVER, stopped=False) as w:
        w.start()
        c = w.connect()
        assert c.monitor("info status") == "VM status: paused\n"
        assert c.monitor("info counts").startswith("technique: bare\ninstructions: ")
        assert c.ask("k") == "OK"
        w.finish()


@pytest.mark.parametrize("technique", ["bare", "software", "shadow-tagged", "nested-tagged"])
def test_the_power_button(technique: str, tmp_path: Path) -> None:
    with world(tmp_path, POWERED_DOWN, technique, stopped=False) as w:
        seen: list[str] = []
        w.guest.outside.on_delivery = lambda cycle, place, data: seen.append(place)
        w.start()
        c = w.connect()
        assert c.monitor("system_powerdown") == ""
        assert c.ask("c") == "W00"
        assert w.finish() == "request"
        assert str(w.guest.request) == "PowerOff()"
        assert seen == ["power-button"]


@pytest.mark.parametrize("technique", ["bare", "nested-tagged"])
def test_a_key(technique: str, tmp_path: Path) -> None:
    with world(tmp_path, KEY, technique, stopped=False) as w:
        w.start()
        c = w.connect()
        assert c.monitor("sendkey a") == ""
        assert c.ask("c") == "W00"
        w.finish()
        assert str(w.guest.request) == f"GuestExit(status={0x1E << 1 | 1})"


def test_keys() -> None:
    assert combination("ctrl-alt-delete").hex(" ") == "14 11 e0 71 e0 f0 71 f0 11 f0 14"
    with pytest.raises(CommandError, match="too many keys"):
        combination("-".join("a" * 17))


@pytest.mark.parametrize("technique", ["bare", "shadow", "nested-tagged"])
def test_a_state_is_saved_and_loaded(technique: str, tmp_path: Path) -> None:
    image = recognise(guests.image("trapgate-guest"), "tests")
    file, found = tmp_path / "state", []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        with world(folder, image, technique) as w:
            w.start()
            c = w.connect()
            for _ in range(100):
                c.ask("s")
            if number == 0:
                c.monitor(f"savevm {file}")
                for _ in range(200):
                    c.ask("s")
            assert file.exists()
            assert c.monitor(f"loadvm {file}") == ""
            assert c.ask("c") == "W00"
            w.finish()
            found.append(counts(w))
    assert found[0] == found[1]


def test_a_file_that_is_no_state_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"something")
    with world(tmp_path, LOOP) as w:
        w.start()
        c = w.connect()
        answer = c.monitor(f"loadvm {tmp_path}/other")
        assert answer == (
            f"Error: wanted a snapshot in {tmp_path}/other, got another kind of file: "
            "name one that savevm has written\n"
        )
        c.ask(f"Z0,{END:x},1")
        assert c.ask("c") == "T05thread:01;"
        assert c.register(16) == END


def test_another_server_for_gdb(tmp_path: Path) -> None:
    with world(tmp_path, LOOP) as w:
        place = f"unix:{tmp_path}/other"
        assert w.session.command(f"gdbserver {place}") == f"Waiting for gdb connection on device '{place}'\n"
        w.path = tmp_path / "other"
        w.start()
        c = w.connect()
        assert c.register(16) == START
        c.ask(f"Z0,{STORE:x},1")
        assert c.ask("c") == "T05thread:01;"
        assert c.ask("k") == "OK"
        w.finish()


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed")
def test_examined_memory_looks_as_qemus(tmp_path: Path) -> None:
    sector = (LOOP.data + bytes(range(200))).ljust(510, b"\0") + b"\x55\xaa"
    (tmp_path / "disk").write_bytes(sector)
    lines = [
        *(f"xp /{count}{kind}{size} 0x7c00" for count, kind, size in ((5, "x", "b"), (9, "x", "h"), (6, "x", "w"),
          (3, "x", "g"), (7, "d", "b"), (7, "d", "w"), (9, "u", "h"), (4, "o", "w"), (3, "u", "g"), (3, "d", "g"),
          (20, "c", "b"))),
        "print /x 255", "print /d -1", "print /c 65", "print /o 8", "p /x (1+2)*3", "foo", "info foo",
    ]  # fmt: skip
    done = subprocess.run(
        ["qemu-system-x86_64", "-display", "none", "-monitor", "stdio", "-serial", "none", "-nic", "none", "-m", "16",
         "-S", "-device", f"loader,file={tmp_path}/disk,addr=0x7c00,force-raw=on"],
        input="\n".join([*lines, "quit"]) + "\n", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    theirs = [line.split("\x1b[K")[-1].rstrip("\r") for line in done.stdout.split("\n")]
    with world(tmp_path, RawImage(sector)) as w:
        for line in lines:
            for wanted in w.session.command(line).rstrip("\n").split("\n"):
                if not wanted.startswith('Try "'):
                    assert wanted in theirs, line


def test_what_is_on_a_board_with_pci() -> None:
    nic = NicConfig("virtio", bytes.fromhex("525400123456"), NoLink())
    board = PcConfig(devices=("virtio-rng-pci",), nics=(nic,))
    machine = BareMachine(MachineConfig(16 << 20, board=board), NullConsole(), native_code())
    machine.load(LOOP)
    guest = BareGuest(machine)
    assert devices.networks(guest) == "net0: index=0,type=nic,model=virtio,macaddr=52:54:00:12:34:56\n"
    said = devices.pci(guest)
    assert "  Bus  0, device   0, function 0:\n    Host bridge: PCI device 8086:1237\n" in said
    assert "      BAR4: I/O at 0xc000 [0xc00f].\n" in said
    assert devices.disks(guest) == ""
