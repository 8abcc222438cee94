"""The embedded guests: the built images are those of the sources, and they do on QEMU what they say."""

from __future__ import annotations

import importlib.util
import re
import shutil
import struct
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from guests.bench_models import CHECKSUMS
from trapgate import guests

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD_SCRIPT = REPOSITORY / "guests" / "build.py"
QEMU = shutil.which("qemu-system-x86_64")

needs_nasm = pytest.mark.skipif(shutil.which("nasm") is None, reason="nasm is not installed (Debian package nasm)")
needs_qemu = pytest.mark.skipif(
    QEMU is None, reason="qemu-system-x86_64 is not installed (Debian package qemu-system-x86)"
)
PASSED, FAILED = 1, 3  # isa-debug-exit: (value << 1) | 1


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_guests", BUILD_SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_on_qemu(tmp_path: Path, name: str, command_line: str = "", processor: str = "phenom") -> tuple[list[str], int]:
    """The lines that a guest prints on COM1 under QEMU's TCG, and QEMU's exit status."""
    path = tmp_path / f"{name}.bin"
    path.write_bytes(guests.image(name))
    boot = ["-drive", f"file={path},format=raw,if=floppy"] if name == "real-loop" else ["-kernel", str(path)]
    if name != "real-loop":
        boot += ["-append", command_line]
    assert QEMU is not None
    machine = ["-accel", "tcg", "-cpu", processor, "-m", "32M", "-no-reboot", "-display", "none", "-monitor", "none"]
    devices = ["-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
    result = subprocess.run(
        [QEMU, *machine, *devices, *boot],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
    return result.stdout.decode("ascii").splitlines(), result.returncode


@needs_nasm
@pytest.mark.parametrize("name", guests.NAMES)
def test_the_image_is_that_of_the_sources(name: str, build: ModuleType, tmp_path: Path) -> None:
    build.assemble(name, tmp_path / "rebuilt")
    assert (tmp_path / "rebuilt").read_bytes() == guests.image(name), "run: python guests/build.py"


def test_the_build_script_knows_every_guest(build: ModuleType) -> None:
    assert tuple(build.MAIN_FILES) == guests.NAMES


def test_an_unknown_guest_is_refused_with_the_names() -> None:
    with pytest.raises(
        guests.UnknownGuest, match="'debian'; there are trapgate-guest, real-loop, bench, hypervisor, io"
    ):
        guests.image("debian")


@pytest.mark.parametrize("name", ["trapgate-guest", "bench", "hypervisor", "io"])
def test_the_multiboot_header_is_valid(name: str) -> None:
    image = guests.image(name)
    header, flags, checksum, at, load, load_end, bss_end, entry = struct.unpack_from("<8I", image)
    assert header == 0x1BADB002
    assert (header + flags + checksum) & 0xFFFFFFFF == 0
    assert flags & 1 << 16
    assert at == load == 0x100000
    assert load_end == 0  # all of the file
    assert load <= entry < load + len(image) <= 0x110000 <= bss_end <= 0x200000


def test_real_loop_is_a_boot_sector() -> None:
    image = guests.image("real-loop")
    assert len(image) == 512
    assert image[510:] == b"\x55\xaa"


@needs_qemu
def test_real_loop_says_hello(tmp_path: Path) -> None:
    lines, status = run_on_qemu(tmp_path, "real-loop")
    assert (lines, status) == (["hello from real mode", "sum of 1 to 1000: 500500"], PASSED)


def names_of_the_tour() -> list[str]:
    """The names of the tests, in the order of the tour."""
    folder = REPOSITORY / "guests" / "trapgate-guest"
    text = "".join((folder / mode / "tour.inc").read_text() for mode in ("real", "protected", "long"))
    return re.findall(r'^ +test_case "([^"]+)"', text, re.MULTILINE)


@needs_qemu
@pytest.mark.parametrize("processor", ["phenom", "qemu64"])
def test_the_tour_passes(tmp_path: Path, processor: str) -> None:
    lines, status = run_on_qemu(tmp_path, "trapgate-guest", "tests", processor)
    names = names_of_the_tour()
    results = dict.fromkeys(names, "ok")
    if processor == "qemu64":
        results["4-level paging: 1 GB pages"] = "not on this processor"
    expected = [f"{name} ".ljust(46, ".") + f" {result}" for name, result in results.items()]
    assert lines == ["trapgate-guest", *expected, f"{len(names)} tests, 0 failed, 0 loops timed"]
    assert status == PASSED


@needs_qemu
def test_a_processor_without_long_mode_fails(tmp_path: Path) -> None:
    lines, status = run_on_qemu(tmp_path, "trapgate-guest", "tests", "pentium")
    assert lines[-2] == "FAILED: this processor has no long mode"
    assert lines[-1].endswith(" 1 failed, 0 loops timed")
    assert status == FAILED


@needs_qemu
def test_all_runs_the_tour_and_times_every_loop(tmp_path: Path) -> None:
    lines, status = run_on_qemu(tmp_path, "trapgate-guest", "loops=10")
    header = lines.index("operation                           operations   cycles each")
    names = names_of_the_tour()
    assert header == 1 + len(names)
    rows = [re.fullmatch(r"(.{34}) *(\d+) +(\d+\.\d)", line) for line in lines[header + 1 : -1]]
    assert all(rows), lines
    table = {row[1].rstrip(): (int(row[2]), float(row[3])) for row in rows if row}
    assert list(table) == [
        "syscall",
        "in",
        "cr8wr",
        "call/ret",
        "pgfault",
        "pgfault, page mapped and unmapped",
        "divzero",
        "ptemod, unchanged",
        "ptemod, present to not present",
        "ptemod, not present to present",
        "CR3 switch",
        "page stride over 4 MB",
        "page stride over 64 MB",
    ]
    assert table["call/ret"][0] == 400_000
    # A fault costs more than a call on any machine, this one's clock being the host's.
    assert table["pgfault"][1] > table["call/ret"][1]
    assert lines[-1] == f"{len(names)} tests, 0 failed, 13 loops timed"
    assert status == PASSED


@needs_qemu
def test_the_hypervisor_finds_amd_v_as_it_should_be(tmp_path: Path) -> None:
    lines, status = run_on_qemu(tmp_path, "hypervisor", processor="qemu64,+svm,+npt")
    # QEMU 7.2 writes 32 bits of VMEXIT_INVALID, which is -1 (APM vol. 2, appendix C), and saves no next RIP.
    wrong = [line for line in lines if "FAIL" in line]
    assert [line.split(" ..")[0] for line in wrong] == ["refused: the exit code has 64 bits"]
    assert "VMMCALL: next RIP: not on this processor" in lines
    assert (lines[-1], status) == ("132 checks, 1 failed", FAILED)


@needs_qemu
def test_the_hypervisor_says_that_there_is_no_amd_v(tmp_path: Path) -> None:
    lines, status = run_on_qemu(tmp_path, "hypervisor", processor="qemu64,-svm")
    assert (lines[-1], status) == ("1 checks, 1 failed", FAILED)


SMALL_COUNTS = {
    "count": 100_000,
    "sieve": 2,
    "md5": 5,
    "list": 3,
    "matrix": 3,
    "quicksort": 2,
    "interpreter": 1000,
    "stride": 20_000,
}


@needs_qemu
@pytest.mark.parametrize("name", CHECKSUMS)
def test_a_benchmark_prints_the_right_checksum(tmp_path: Path, name: str) -> None:
    n = SMALL_COUNTS.get(name, 300)
    lines, status = run_on_qemu(tmp_path, "bench", f"bench={name} n={n}")
    assert (lines, status) == ([f"bench={name} n={n} checksum={CHECKSUMS[name](n):016x}"], PASSED)


@needs_qemu
@pytest.mark.parametrize(
    ("command_line", "message"),
    [
        ("", "the command line must have bench=NAME, and may have n=COUNT; names: " + " ".join(CHECKSUMS)),
        ("bench=siev", "the command line must have bench=NAME, and may have n=COUNT; names: " + " ".join(CHECKSUMS)),
        ("bench=sieve2", "the command line must have bench=NAME, and may have n=COUNT; names: " + " ".join(CHECKSUMS)),
        ("bench=sieve n=0", "n must be a number from 1 to 4294967295"),
        ("bench=sieve n=many", "n must be a number from 1 to 4294967295"),
    ],
)
def test_a_wrong_command_line_is_answered(tmp_path: Path, command_line: str, message: str) -> None:
    lines, status = run_on_qemu(tmp_path, "bench", command_line)
    assert (lines, status) == ([f"bench: FAILED: {message}"], FAILED)


@needs_qemu
def test_the_drivers_of_disks_work_on_qemu(tmp_path: Path) -> None:
    """The guest `io` on another emulator's IDE and virtio; its network would want a peer there."""
    assert QEMU is not None
    kernel = tmp_path / "io.bin"
    kernel.write_bytes(guests.image("io"))
    for name in ("ide.img", "virtio.img"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    result = subprocess.run(
        [QEMU, "-accel", "tcg", "-m", "32M", "-no-reboot", "-display", "none", "-monitor", "none", "-serial", "stdio",
         "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-nic", "none", "-kernel", str(kernel),
         "-drive", f"file={tmp_path}/ide.img,format=raw,if=ide",
         "-drive", f"file={tmp_path}/virtio.img,format=raw,if=none,id=d",
         "-device", "virtio-blk-pci,drive=d,disable-legacy=on"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120, check=False,
    )  # fmt: skip
    lines = result.stdout.decode("ascii").splitlines()
    checks = (
        "blocks are written and read back",
        "a block behind the last one is an error",
        "and the next request goes on",
    )
    wanted = [f"{driver} disk: {what} ... ok" for driver in ("emulated", "virtio") for what in checks]
    assert [line for line in lines if "disk" in line] == [*wanted, "hypercall disk ... not there"]
    assert (lines[-1], result.returncode) == ("io: 0 failed", PASSED)
