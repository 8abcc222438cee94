"""`trapgate run` up to the machine and after it, with a machine that only plays the guest's part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import Command
from trapgate.arch.cpuid import PROFILES
from trapgate.firmware.image import BootImage
from trapgate.firmware.linux import LinuxImage
from trapgate.firmware.raw import RawImage
from trapgate.lab import courses as lab_courses
from trapgate.lab import guest as guests
from trapgate.lab import run as lab_run
from trapgate.lab.console_output import ConsoleSplitter
from trapgate.lab.ends import End
from trapgate.lab.errors import CommandNotRun
from trapgate.lab.guest import Guest, find_guest
from trapgate.lab.initramfs import MARKER_PREFIX
from trapgate.lab.options import RunOptions
from trapgate.lab.run import run_guest, telling_line
from trapgate.lab.statistics import HotPlace, Statistics
from trapgate.machine.console import ConsoleBackend

BOOT_SECTOR = bytes(510) + b"\x55\xaa"


class Console:
    """A console that remembers, and types nothing."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.entered = self.left = 0
        self.on_quit = lambda: None

    def __enter__(self) -> Console:
        self.entered += 1
        return self

    def __exit__(self, *details: object) -> None:
        self.left += 1

    def write(self, data: bytes) -> None:
        self.data += data

    has_input = is_interactive = False

    def flush(self) -> None:
        pass

    def poll(self) -> bytes:
        return b""

    def descriptors(self) -> tuple[int, ...]:
        return ()


class Played:
    """A machine whose guest sends `text` and then ends as told; `stopped` when the user asked for it."""

    def __init__(self, text: bytes, end: End, console: ConsoleBackend, user: Console) -> None:
        self.text = text
        self.end = end
        self.console = console
        self.user = user
        self.image: BootImage | None = None
        self.stopped = False

    def load(self, image: BootImage) -> None:
        self.image = image

    def run(self, max_instructions: int | None) -> End:
        assert self.image is not None
        assert self.user.entered == 1
        assert self.user.left == 0
        self.user.on_quit()
        self.console.write(self.text)
        return self.end

    def stop(self) -> None:
        self.stopped = True

    def statistics(self) -> Statistics:
        return Statistics(instructions=10, cycles=12, host_seconds=0.5)


def play(
    monkeypatch: pytest.MonkeyPatch, options: RunOptions, end: End, text: bytes = b"", guest: Guest | None = None
) -> tuple[lab_run.RunOutcome, Console, Played]:
    played: list[Played] = []
    console = Console()

    def make(options: object, backend: ConsoleBackend, user: object, progress: object) -> Played:
        played.append(Played(text, end, backend, console))
        return played[0]

    if guest is not None:
        monkeypatch.setattr(lab_courses, "find_guest", lambda options, progress: guest)
    outcome = run_guest(options, console, make_machine=make)
    return outcome, console, played[0]


def boot_sector_guest(**changes: object) -> Guest:
    return Guest(RawImage(BOOT_SECTOR), "sector", **changes)


@pytest.mark.parametrize(
    ("end", "status", "message"),
    [
        (End("power-off"), 0, ""),
        (End("user-quit"), 0, ""),
        (End("guest-exit", guest_status=1), 1, ""),
        (End("guest-exit", guest_status=33), 33, ""),
        (End("guest-exit", guest_status=0x1FF), 0xFF, ""),
        (End("reset"), 0, "trapgate: the guest asked for a reset: the run ends here"),
        (End("halted"), 0, "trapgate: the guest's processor has halted, and nothing is left to wake it"),
        (
            End("triple-fault", report="#PF at 0x10"),
            3,
            "trapgate: triple fault: the guest's processor has shut down\n#PF at 0x10",
        ),
        (End("unimplemented", report="unimplemented: vmrun"), 4, "trapgate: unimplemented: vmrun"),
        (End("limit"), 124, "trapgate: ended after 500 instructions, as --max-instructions asks"),
    ],
)
def test_every_end_has_its_status(monkeypatch: pytest.MonkeyPatch, end: End, status: int, message: str) -> None:
    options = RunOptions(guest="sector", max_instructions=500)
    outcome, console, machine = play(monkeypatch, options, end, b"hello\r\n", boot_sector_guest())
    assert (outcome.status, outcome.message, outcome.reason) == (status, message, end.reason)
    assert bytes(console.data) == b"hello\r\n"
    assert console.left == 1
    assert machine.stopped


def test_an_embedded_guests_success_is_status_0(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, _, machine = play(monkeypatch, RunOptions(), End("guest-exit", guest_status=1))
    assert (outcome.status, outcome.description) == (0, "trapgate-guest")
    assert machine.image is not None
    outcome, _, _ = play(monkeypatch, RunOptions(), End("guest-exit", guest_status=3))
    assert outcome.status == 3


def marked(output: bytes, status: bytes) -> bytes:
    start, end = MARKER_PREFIX + b"word:start\n", MARKER_PREFIX + b"word:status:" + status + b"\n"
    return b"[    0.000000] Linux version 6.1\r\n" + start + output + end


def test_a_commands_output_and_status_are_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = boot_sector_guest(splitter=ConsoleSplitter("word"))
    options = RunOptions(guest="debian", command=("false",))
    outcome, console, _ = play(monkeypatch, options, End("power-off"), marked(b"out\xff\n", b"7"), guest)
    assert outcome.status == 7
    assert bytes(console.data) == b"out\xff\n"


def test_a_guest_that_does_not_run_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = boot_sector_guest(splitter=ConsoleSplitter("word"))
    text = b"Linux version 6.1\r\nKernel panic - not syncing: no init\r\nKernel Offset: 0x0\r\n\r\n"
    with pytest.raises(
        CommandNotRun, match="ended \\(reset\\) before it was done: it said 'Kernel panic - not syncing: no init'"
    ):
        play(monkeypatch, RunOptions(guest="debian", command=("ls",)), End("reset"), text, guest)


@pytest.mark.parametrize(
    ("console", "line"),
    [("", ""), ("\r\n", ""), ("one\r\ntwo\r\n\r\n", "two"), ("Kernel panic: x\r\nend\r\n", "Kernel panic: x")],
)
def test_the_line_that_says_most(console: str, line: str) -> None:
    assert telling_line(console) == line


def test_a_triple_fault_under_a_command_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = boot_sector_guest(splitter=ConsoleSplitter("word"))
    outcome, _, _ = play(monkeypatch, RunOptions(guest="debian", command=("ls",)), End("triple-fault"), b"", guest)
    assert outcome.status == 3


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of bad images, as the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "tiny").write_bytes(bytes(16))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"not an image\n" * 100)
    (tmp_path / "sector").write_bytes(BOOT_SECTOR)
    header = bytearray(0x2000)
    header[0x1FE:0x206] = b"\x55\xaa\xeb\x6aHdrS"
    header[0x206:0x208] = (0x20F).to_bytes(2, "little")
    header[0x211] = 1
    header[0x1F4:0x1F8] = (0x100000).to_bytes(4, "little")
    (tmp_path / "truncated").write_bytes(header)
    (tmp_path / "cut").write_bytes(BOOT_SECTOR + bytes(188))
    (tmp_path / "blank").write_bytes(bytes(1_474_560))
    (tmp_path / "diskette").write_bytes(BOOT_SECTOR.ljust(1_474_560, b"\0"))
    return tmp_path


KERNELS = "wanted a kernel (Linux bzImage, multiboot 1, or ELF with a PVH entry)"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["missing"],
            "wanted a guest file at missing, got no such file or directory: "
            "name another file, or one of debian, embedded, trapgate-guest, real-loop, bench, hypervisor, io",
        ),
        (["folder"], "wanted a guest file at folder, got a directory: name another file"),
        (["/dev/null"], "wanted a guest file at /dev/null, got something that is no plain file: name another file"),
        (["tiny"], f"{KERNELS}, got 16 bytes of another kind in tiny: name a kernel image with --kernel"),
        (["empty"], "wanted a guest file at empty, got an empty one: name another file"),
        (["--kernel", "empty"], "wanted a kernel file at empty, got an empty one: name another file"),
        (
            ["cut"],
            "wanted a disk image of whole 512-byte sectors, got 700 bytes in cut: "
            "the file is damaged or truncated, get it again",
        ),
        (
            ["blank"],
            "wanted a boot sector that ends in 55h AAh in the diskette image blank, got 00h 00h there: "
            "name an image that can be booted",
        ),
        (["--kernel", "diskette"], f"{KERNELS}, got a diskette image in diskette: name a kernel image with --kernel"),
        (
            ["diskette", "--append", "x"],
            "wanted --initrd and --append with a kernel, got a diskette image in diskette: leave them out",
        ),
        (["text"], f"{KERNELS}, got 1300 bytes of another kind in text: name a kernel image with --kernel"),
        (["a\x00b"], "wanted a guest file at a\\x00b, got no valid name: name another file"),
        (
            ["--kernel", "missing"],
            "wanted a kernel file at missing, got no such file or directory: name another file",
        ),
        (
            ["--kernel", "tiny"],
            f"{KERNELS}, got 16 bytes of another kind in tiny: name a kernel image with --kernel",
        ),
        (
            ["--kernel", "sector"],
            f"{KERNELS}, got a boot sector of 512 bytes in sector: name a kernel image with --kernel",
        ),
        (
            ["--kernel", "truncated"],
            "wanted 16779776 bytes as its header says, got 8192 bytes in truncated: "
            "the file is damaged or truncated, get it again",
        ),
        (
            ["--kernel", "truncated", "--initrd", "missing"],
            "wanted an initrd file at missing, got no such file or directory: name another file",
        ),
        (
            ["--cpu", "z80"],
            f"wanted a processor that trapgate has ({', '.join(PROFILES)}), got 'z80': choose one with --cpu",
        ),
        (["sector", "--kernel", "tiny"], "wanted a guest or --kernel, got both: leave one of them out"),
        (
            ["sector", "--initrd", "tiny"],
            "wanted --initrd and --append with a kernel, got a boot sector in sector: leave them out",
        ),
        (["--initrd", "tiny"], "wanted --initrd with a kernel, got it with embedded: name a kernel with --kernel"),
        (
            ["--", "ls"],
            "wanted a command only for a guest with a shell, got one for another: use trapgate run debian -- COMMAND",
        ),
        (["debian", "--"], "wanted a command after --, got nothing: add one, or leave -- out for a shell"),
        (
            ["debian", "--memory", "64M"],
            "wanted at least 80 MB of memory for Debian's kernel and busybox, got 64 MB: use --memory 80M or more",
        ),
    ],
)
def test_bad_guests(command: Command, files: Path, arguments: list[str], text: str) -> None:
    answer = command("run", *arguments)
    assert (answer.status, answer.output, answer.errors) == (2, "", f"trapgate: error: {text}\n")


def test_debians_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`console=ttyS0`, the user's words after it, and an end for a kernel that gives up under a command."""
    import trapgate.lab.debian as debian
    import trapgate.lab.initramfs as initramfs

    (tmp_path / "vmlinuz").write_bytes(b"kernel")
    (tmp_path / "busybox").write_bytes(b"busybox")
    found = debian.DebianGuest(tmp_path / "vmlinuz", tmp_path / "busybox", "linux 6.1")
    monkeypatch.setattr(debian, "fetch_debian", lambda progress: found)
    monkeypatch.setattr(initramfs, "build_initramfs", lambda busybox, command: b"archive")
    seen: list[tuple[object, ...]] = []

    class Image(LinuxImage):
        def __init__(self, *arguments: object) -> None:
            seen.append(arguments)

    monkeypatch.setattr(guests, "LinuxImage", Image)
    find_guest(RunOptions(guest="debian", append="quiet"), lambda stage, done, total: None)
    found_guest = find_guest(RunOptions(guest="debian", command=("ls",)), lambda stage, done, total: None)
    assert seen == [
        (b"kernel", b"archive", "console=ttyS0 quiet", "linux 6.1"),
        (b"kernel", b"archive", "console=ttyS0 panic=-1", "linux 6.1"),
    ]
    assert found_guest.splitter is not None


def test_the_report_goes_where_it_belongs(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(options: RunOptions, console: object, progress: object, **others: object) -> lab_run.RunOutcome:
        return lab_run.RunOutcome(options, "sector", "limit", 124, "the message", Statistics(10, 12, 0.5))

    monkeypatch.setattr(lab_run, "run_guest", run)
    path = tmp_path / "counts.json"
    answer = command("run", "--stats", "--json", str(path), "--max-instructions", "10")
    assert answer.status == 124
    assert answer.output == ""
    assert answer.errors.startswith("the message\n")
    assert "guest MIPS" in answer.errors
    report = json.loads(path.read_text())
    assert report["end"] == {"reason": "limit", "status": 124}
    assert report["max_instructions"] == 10


def test_a_profile_names_the_blocks_where_the_time_went(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(options: RunOptions, console: object, progress: object, **others: object) -> lab_run.RunOutcome:
        places = (HotPlace(0x10_1234, 0, 64, 0.75, 0.5), HotPlace(0x7C00, 3, 16, 0.25, 0.0))
        counts = Statistics(10, 12, 0.5, hottest=places)
        return lab_run.RunOutcome(options, "sector", "halted", 0, "", counts)

    monkeypatch.setattr(lab_run, "run_guest", run)
    lines = command("run", "--profile").errors.splitlines()
    assert [line.split() for line in lines if "0x" in line] == [
        ["│", "75.0%", "│", "0x101234", "│", "0", "│", "64-bit", "│", "50%", "│"],
        ["│", "25.0%", "│", "0x7c00", "│", "3", "│", "16-bit", "│", "0%", "│"],
    ]
    monkeypatch.setattr("trapgate.api.backtrace._read_elf", lambda path: {0x10_1200: ("schedule", 0x100)})
    named = command("run", "--symbols", "vmlinux").errors
    assert "schedule+0x34" in named
