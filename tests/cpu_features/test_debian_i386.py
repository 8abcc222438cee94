"""32-bit Debian (PAE kernel, i386 busybox) to its shell on `pentium3`."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import Command
from trapgate.lab.debian import BUSYBOX_PACKAGE, Apt, DebianUnavailable, default_cache
from trapgate.lab.debian_package import extract
from trapgate.lab.initramfs import build_initramfs

pytestmark = [pytest.mark.engine, pytest.mark.debian]

META_PACKAGE = "linux-image-686-pae"
SCRIPT = ["sh", "-c", "uname -m; grep -c '^flags.* pae .* sse' /proc/cpuinfo; dmesg | grep -ci 'segfault\\|oops'"]


class _AptI386(Apt):
    """apt with a second architecture, in folders of its own: the system's stays as it is."""

    def _options(self) -> list[str]:
        return [*super()._options(), "-o", "APT::Architectures::=i386"]

    def fetch(self, name: str, pattern: str, folder: Path) -> bytes:
        package = self.show(f"{name}:i386")
        archive = self.download(package, folder)
        [(_, content)] = extract(archive, [pattern])
        archive.unlink()
        return content


@pytest.fixture(scope="module")
def files() -> tuple[Path, Path]:
    """Kernel and busybox, kept in the user's cache."""
    folder = default_cache().parent / "debian-i386"
    kernel, busybox = folder / "vmlinuz", folder / "busybox"
    if kernel.exists() and busybox.exists():
        return kernel, busybox
    try:
        folder.mkdir(parents=True, exist_ok=True)
        apt = _AptI386(folder / "apt", lambda what, share: None)
        apt.update()
        name = apt.show(f"{META_PACKAGE}:i386").depends.split(" ")[0]
        busybox.write_bytes(apt.fetch(BUSYBOX_PACKAGE, r"(usr/)?bin/busybox", folder))
        kernel.write_bytes(apt.fetch(name, r"boot/vmlinuz-.+", folder))
    except (DebianUnavailable, OSError) as error:
        pytest.skip(f"apt gives no i386 kernel here: {error}")
    return kernel, busybox


def test_boots_to_a_shell(files: tuple[Path, Path], process: Command, tmp_path: Path) -> None:
    kernel, busybox = files
    initrd = tmp_path / "initrd"
    initrd.write_bytes(build_initramfs(busybox.read_bytes(), SCRIPT))
    answer = process(
        "run", "--kernel", str(kernel), "--initrd", str(initrd), "--cpu", "pentium3", "--append",
        "console=ttyS0 quiet", "--max-instructions", "15000000000", timeout=300,
    )  # fmt: skip
    lines = [line.strip() for line in answer.output.splitlines()]
    assert "i686" in lines, answer.output + answer.errors
    start = lines.index("i686")
    assert lines[start + 1] == "1", answer.output
    assert lines[start + 2] == "0", answer.output
    assert "Oops" not in answer.output
    assert "general protection" not in answer.output
    assert answer.status == 0, answer.errors
