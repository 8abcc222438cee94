"""Boot sectors that call each service; where SeaBIOS must say the same, it is asked too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trapgate.engine.handlers import HandlerStore
from trapgate.machine.control import Reset

from .runner import assemble, machine_for, qemu, run_here, run_on_qemu, run_virtually

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("nasm") is None, reason="nasm is not installed (Debian package nasm)"),
]

#: Each: code, and what it reports on COM1. The same under SeaBIOS.
COMMON = {
    "drive number and conventional memory": (
        "show dx\nint 12h\ncall hex4\nint 11h\nand ax, 0C1h\ncall hex4",
        "0000 027f 0001 ",
    ),
    "read by cylinder, head, sector": (
        "mov ax, 0201h\nmov bx, 8000h\nmov cx, 2\nmov dx, 0\nint 13h\ncall hex4\ncarry\n"
        "show word [8000h]\nshow word [81FEh]",
        "0001 0000 6573 0202 ",
    ),
    "no such head": (
        "mov ax, 0201h\nmov bx, 8000h\nmov cx, 2\nmov dx, 0500h\nint 13h\ncarry",
        "0001 ",
    ),
    "writes can be read again": (
        "mov word [9000h], 1234h\nmov ax, 0301h\nmov bx, 9000h\nmov cx, 3\nmov dx, 0\nint 13h\ncarry\n"
        "mov ax, 0201h\nmov bx, 9800h\nmov cx, 3\nmov dx, 0\nint 13h\nshow word [9800h]",
        "0000 1234 ",
    ),
    "diskette parameters": (
        "xor di, di\nmov ah, 8\nmov dl, 0\nint 13h\ncarry\nmov ax, cx\ncall hex4\nshow dx",
        "0000 4f12 0101 ",
    ),
    "no such function of INT 15h": (
        "mov ax, 5F00h\nint 15h\nmov al, 0\ncall hex4\ncarry",
        "8600 0001 ",
    ),
    "block move": (
        "mov word [9010h], 0FFFFh\nmov byte [9014h], 0\nmov byte [9015h], 93h\nmov word [9012h], 8000h\n"
        "mov word [9018h], 0FFFFh\nmov word [901Ah], 0\nmov byte [901Ch], 20h\nmov byte [901Dh], 93h\n"
        "mov word [8000h], 0BEEFh\nmov ah, 87h\nmov cx, 8\nmov si, 9000h\nint 15h\ncarry\n"
        "mov word [9012h], 0\nmov byte [9014h], 20h\nmov word [901Ah], 0A000h\nmov byte [901Ch], 0\n"
        "mov ah, 87h\nmov cx, 8\nmov si, 9000h\nint 15h\nshow word [0A000h]",
        "0000 beef ",
    ),
    "A20": (
        "mov ax, 2401h\nint 15h\ncarry\nmov ax, 2402h\nint 15h\ncall hex4",
        "0000 0001 ",
    ),
    "keys put into the buffer": (
        "mov ah, 5\nmov cx, 1E61h\nint 16h\nmov ah, 1\nint 16h\nmov bx, ax\nsetz al\nmov ah, 0\ncall hex4\nshow bx\n"
        "mov ah, 0\nint 16h\ncall hex4\nmov ah, 1\nint 16h\nsetz al\nmov ah, 0\ncall hex4",
        "0000 1e61 1e61 0001 ",
    ),
    "ticks go on": (
        "mov ax, [46Ch]\nadd ax, 3\n.wait: hlt\ncmp [46Ch], ax\njb .wait\nmov ah, 0\nint 1Ah\nsub dx, [46Ch]\nshow dx",
        "0000 ",
    ),
    "a wait takes its time": (
        "mov ah, 0\nint 1Ah\npush dx\nmov ah, 86h\nmov cx, 3\nmov dx, 0D40h\nint 15h\ncarry\nmov ah, 0\nint 1Ah\n"
        "pop ax\nsub dx, ax\ncmp dx, 3\nsetae al\ncmp dx, 5\nsetbe ah\ncall hex4",
        "0000 0101 ",
    ),
    "INT 1Ch is called": (
        "cli\nmov word [70h], .tick\nmov word [72h], 0\nsti\n.wait: hlt\ncmp byte [.count], 2\njb .wait\n"
        "show 7\njmp .end\n.tick: inc byte [cs:.count]\niret\n.count: db 0\n.end:",
        "0007 ",
    ),
    "write and read a character": (
        "mov ax, 3\nint 10h\nmov ah, 2\nmov bh, 0\nmov dx, 0510h\nint 10h\nmov ax, 0941h\nmov bx, 1Eh\nmov cx, 3\n"
        "int 10h\nmov ah, 8\nmov bh, 0\nint 10h\ncall hex4\nmov ah, 3\nmov bh, 0\nint 10h\nshow dx\n"
        "push es\nmov ax, 0B800h\nmov es, ax\nmov ax, [es:836]\ncall hex4\nmov ah, 0Fh\nint 10h\ncall hex4",
        "1e41 0510 1e41 5003 ",
    ),
    "the screen scrolls": (
        "mov ax, 3\nint 10h\nmov ah, 2\nmov bh, 0\nmov dx, 1800h\nint 10h\nmov ax, 0E5Ah\nint 10h\nmov ax, 0E0Ah\n"
        "int 10h\nmov ax, 0B800h\nmov es, ax\nmov ax, [es:23 * 160]\ncall hex4\nmov ax, [es:24 * 160]\ncall hex4\n"
        "mov ah, 3\nmov bh, 0\nint 10h\nshow dx",
        "075a 0720 1801 ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMON)
def test_services(name: str, handlers: HandlerStore, tmp_path: Path) -> None:
    """What the boot sector reports is what is expected, and what SeaBIOS gives."""
    code, expected = COMMON[name]
    image = assemble(code + "\nfinish", tmp_path)
    stopped, machine, text = run_here(image, handlers)
    assert stopped.reason == "request", (text, machine.bios and machine.bios.notes)
    # What the screen shows comes before it on the same console.
    assert text.endswith(expected)
    if qemu() is not None:
        assert run_on_qemu(image, tmp_path) == expected


@pytest.mark.parametrize("technique", ["software", "shadow-tagged", "nested-tagged"])
@pytest.mark.parametrize("name", COMMON)
def test_services_in_a_virtual_machine(name: str, technique: str, handlers: HandlerStore, tmp_path: Path) -> None:
    code, expected = COMMON[name]
    reason, machine, text = run_virtually(assemble(code + "\nfinish", tmp_path), technique, handlers)
    assert reason == "request", (text, machine.firmware and machine.firmware.bios.notes)
    assert text.endswith(expected)


RESETS = {
    "the keyboard controller": "mov al, 0FEh\nout 64h, al\nhlt",
    "port 92h": "in al, 92h\nor al, 1\nout 92h, al\nhlt",
}


@pytest.mark.parametrize("technique", ["bare", "software", "shadow-tagged", "nested-tagged"])
@pytest.mark.parametrize("how", RESETS)
def test_a_reset_of_the_processor_starts_the_machine_again(
    how: str, technique: str, handlers: HandlerStore, tmp_path: Path
) -> None:
    image = assemble(RESETS[how], tmp_path)
    if technique == "bare":
        stopped, machine, _ = run_here(image, handlers)
        assert (stopped.reason, machine.control.request) == ("request", Reset())
    else:
        reason, virtual, _ = run_virtually(image, technique, handlers)
        assert (reason, virtual.control.request) == ("request", Reset())


def test_memory_sizes(handlers: HandlerStore, tmp_path: Path) -> None:
    """16 MB: E801h, 88h, and E820h's last entry (SeaBIOS keeps some at the top for its tables)."""
    code = """
        mov ax, 0E801h
        int 15h
        call hex4
        show bx
        mov ah, 88h
        int 15h
        call hex4
        xor ebx, ebx
.next:  mov eax, 0E820h
        mov edx, 534D4150h
        mov ecx, 20
        mov di, 9000h
        int 15h
        jc .done
        test ebx, ebx
        jnz .next
.done:  show word [9002h]
        show word [900Ah]
        show word [9010h]
        finish
    """
    _, _, text = run_here(assemble(code, tmp_path), handlers)
    assert text == "3c00 0000 3c00 0010 00f0 0001 "


def test_disk_by_block_address(handlers: HandlerStore, tmp_path: Path) -> None:
    """A hard disk's extensions: their presence, a read through a packet, the parameters."""
    code = """
        show dx
        mov ah, 41h
        mov bx, 55AAh
        int 13h
        show bx
        mov ah, 42h
        mov si, .packet
        int 13h
        carry
        show word [8000h]
        mov dword [.packet + 8], 20480
        mov ah, 42h
        int 13h
        carry
        mov word [9000h], 1Ah
        mov ah, 48h
        mov si, 9000h
        int 13h
        show word [9010h]
        show word [9018h]
        finish
.packet: dw 16, 1, 8000h, 0
        dq 1
    """
    image = assemble(code, tmp_path, 20480 * 512)
    stopped, _, text = run_here(image, handlers)
    assert stopped.reason == "request"
    assert text == "0080 aa55 0000 6573 0001 5000 0200 "
    if qemu() is not None:
        assert run_on_qemu(image, tmp_path, "ide") == text


def test_the_file_is_not_written(handlers: HandlerStore, tmp_path: Path) -> None:
    """What a guest writes to a disk stays in that machine."""
    image = assemble("mov ax, 0301h\nmov bx, 7C00h\nmov cx, 5\nmov dx, 0\nint 13h\ncarry\nfinish", tmp_path)
    before = bytes(image)
    for _ in range(2):
        _, _, text = run_here(image, handlers)
        assert text == "0000 "
    assert image == before


def test_text_without_positions_is_a_plain_stream(handlers: HandlerStore, tmp_path: Path) -> None:
    """Teletype output alone gives text that can be kept in a file."""
    code = """
        mov si, .text
.next:  lodsb
        test al, al
        jz .done
        mov ah, 0Eh
        mov bx, 7
        int 10h
        jmp .next
.done:  finish
.text:  db 'Hello, ', 'BIOS', 13, 10, 'second', 8, 'D', 13, 10, 0
    """
    _, _, text = run_here(assemble(code, tmp_path), handlers)
    assert text == "Hello, BIOS\r\nsecond\bD\r\n"


def test_keys_are_typed(handlers: HandlerStore, tmp_path: Path) -> None:
    """A blocking read waits, time passing; each typed byte gives its scan code and character."""
    code = "mov cx, 6\n.next: mov ah, 10h\nint 16h\ncall hex4\nloop .next\nfinish"
    machine, console = machine_for(assemble(code, tmp_path), handlers)
    machine.run(2_000)
    assert console.data == b""
    machine.receive(b"aB\r\x1b[A\x03\x1bOP")
    assert machine.run(5_000_000).reason == "request"
    assert console.data == b"1e61 3042 1c0d 48e0 2e03 3b00 "
    assert machine.clock.now > machine.clock.hz // 100


def test_writes_to_text_memory_are_shown(handlers: HandlerStore, tmp_path: Path) -> None:
    """What a guest puts at B8000h appears, its colour too, when the screen is looked at."""
    code = "mov ax, 0B800h\nmov es, ax\nmov word [es:162], 4F58h\ncli\nhlt"
    stopped, _, text = run_here(assemble(code, tmp_path), handlers)
    assert stopped.reason == "halted"
    assert text == "\r\n \x1b[0;97;41mX"


def test_unknown_functions_are_noted(handlers: HandlerStore, tmp_path: Path) -> None:
    """Nothing that is missing passes silently."""
    code = "mov ax, 4F00h\nint 10h\nmov ax, 5300h\nint 15h\nmov ax, 5300h\nint 15h\nmov ax, 1234h\nint 21h\nfinish"
    _, machine, _ = run_here(assemble(code, tmp_path), handlers)
    assert machine.bios is not None
    assert machine.bios.notes == [
        "int 10h ax=4f00h: not supported",
        "int 15h ax=5300h: not supported (2 times)",
        "int 21h ax=1234h: not supported",
    ]


def test_an_exception_that_nobody_handles_ends_the_run(handlers: HandlerStore, tmp_path: Path) -> None:
    """A divide error would come back for ever: the machine stops and says where."""
    stopped, machine, _ = run_here(assemble("xor cx, cx\ndiv cx", tmp_path), handlers)
    assert stopped.reason == "halted"
    assert machine.bios is not None
    [note] = machine.bios.notes
    assert note.startswith("int 00h: divide error at 0000:7c")
    assert note.endswith(", which nobody handles: the processor is halted")


def test_boot_again_and_nothing_to_boot(handlers: HandlerStore, tmp_path: Path) -> None:
    """INT 19h loads the boot sector again; INT 18h says that nothing is left."""
    code = "inc byte [500h]\nshow [500h]\ncmp byte [500h], 2\nmov word [7C00h], 0\njb .again\nint 18h\n.again: int 19h"
    stopped, _, text = run_here(assemble(code, tmp_path), handlers)
    assert stopped.reason == "halted"
    assert text == "0001 0002 \nNothing is left to boot.\r\n"


def test_reset_vector_asks_for_a_reset(handlers: HandlerStore, tmp_path: Path) -> None:
    """A jump to FFFF:0000 starts the machine again, which ends the run; so does the keyboard controller."""
    for code in ("jmp 0FFFFh:0", "mov al, 0FEh\nout 64h, al\nhlt"):
        _, machine, _ = run_here(assemble(code, tmp_path), handlers)
        assert type(machine.control.request).__name__ == "Reset"


def test_code_can_be_written_through_cs_in_real_mode(handlers: HandlerStore, tmp_path: Path) -> None:
    """Real mode checks no types: GRUB keeps its variables beside its code."""
    code = "mov ax, 5678h\nmov [cs:.place], ax\nshow [.place]\nfinish\n.place: dw 0"
    _, _, text = run_here(assemble(code, tmp_path), handlers)
    assert text == "5678 "
