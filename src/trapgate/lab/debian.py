"""Gets Debian's cloud kernel and busybox as packages through apt, without root, and keeps them in a cache.

apt does what it is good at: it knows the mirrors, verifies signatures and hashes, and downloads. Package lists that the
system lacks are fetched into the cache folder, by apt, from the system's configured sources.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from trapgate.lab.debian_package import extract
from trapgate.machine.errors import MachineError

KERNEL_META_PACKAGE = "linux-image-cloud-amd64"
BUSYBOX_PACKAGE = "busybox-static"
KERNEL_PATH = r"boot/vmlinuz-.+"
BUSYBOX_PATH = r"(usr/)?bin/busybox"
MANIFEST = "manifest.json"
CURRENT = "current"
DOWNLOAD_STATUS = re.compile(r"(?:dlstatus|pmstatus):[^:]*:([0-9.]+):")

#: Called with what is going on, and how much of it is done, 0.0 to 1.0.
Progress = Callable[[str, float], None]


class DebianUnavailable(MachineError):
    """Base of the reasons why Debian's packages cannot be had here."""


class AptMissing(DebianUnavailable):
    """This host has no apt."""

    def __init__(self, program: str) -> None:
        super().__init__(
            f"wanted {program} to get Debian's kernel, got a host without it: "
            "run on Debian, or name files with --kernel and --initrd"
        )


class PackageNotFound(DebianUnavailable):
    """apt's sources do not offer the package."""

    def __init__(self, package: str, got: str = "no such package") -> None:
        super().__init__(
            f"wanted the package {package} from apt's sources, got {got}: "
            "add Debian (amd64, main) to apt's sources, or name files with --kernel and --initrd"
        )


class DownloadFailed(DebianUnavailable):
    """apt knows the package and could not fetch it."""

    def __init__(self, package: str, detail: str) -> None:
        super().__init__(
            f"wanted to download {package} through apt, got {detail or 'no file'}: "
            "check the network, or name files with --kernel and --initrd"
        )


class CacheUnwritable(DebianUnavailable):
    """What was fetched cannot be kept."""

    def __init__(self, folder: Path, got: str) -> None:
        super().__init__(
            f"wanted a folder for Debian's files at {folder}, got {got}: "
            "make it writable, or set XDG_CACHE_HOME to one that is"
        )


@dataclass(frozen=True)
class DebianGuest:
    """Files in the cache. `version` is the kernel package's name and version, for reports."""

    kernel: Path
    busybox: Path
    version: str


@dataclass(frozen=True)
class Package:
    """A candidate of apt's: what `apt-cache show` states of it. `size` in bytes."""

    name: str
    version: str
    sha256: str
    size: int
    depends: str


def default_cache() -> Path:
    """The folder for Debian's files in the user's cache folder."""
    return Path(platformdirs.user_cache_dir("trapgate")) / "debian"


def fetch_debian(progress: Progress | None = None, cache: Path | None = None, refresh: bool = False) -> DebianGuest:
    """The kernel and busybox: from `cache` when it is whole, else through apt.

    With `refresh`, apt is asked for newer versions even so. Raises DebianUnavailable, CorruptPackage.
    """
    folder = cache if cache is not None else default_cache()
    report = progress or (lambda what, share: None)
    if not refresh:
        guest = cached_guest(folder)
        if guest is not None:
            return guest
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _fetch_into(folder, Apt(folder / "apt", report))
    except OSError as error:
        raise CacheUnwritable(folder, (error.strerror or "an error").lower()) from error


def _fetch_into(folder: Path, apt: Apt) -> DebianGuest:
    try:
        guest = _fetch(folder, apt)
    except (PackageNotFound, DownloadFailed):
        # The system's lists are missing, or so old that the mirror no longer has what they name.
        apt.update()
        guest = _fetch(folder, apt)
    write_atomically(folder / CURRENT, guest.kernel.parent.name.encode())
    return guest


def cached_guest(cache: Path | None = None) -> DebianGuest | None:
    """What the last fetch left in `cache`, if every byte of it is still there; apt is not asked."""
    folder = cache if cache is not None else default_cache()
    try:
        key = (folder / CURRENT).read_text()
    except (OSError, UnicodeDecodeError):
        return None
    if not key or "/" in key or key.startswith("."):
        return None
    return _read_guest(folder / key)


def _fetch(folder: Path, apt: Apt) -> DebianGuest:
    """The guest of apt's candidates: unpacked before, or downloaded now."""
    meta = apt.show(KERNEL_META_PACKAGE)
    match = re.search(r"\blinux-image-[a-z0-9.+-]+", meta.depends)
    if match is None:
        raise PackageNotFound(KERNEL_META_PACKAGE, f"one that depends on {meta.depends!r}")
    kernel, busybox = apt.show(match[0]), apt.show(BUSYBOX_PACKAGE)
    key = f"{kernel.name}_{kernel.version}_{kernel.sha256[:12]}_{busybox.version}_{busybox.sha256[:12]}"
    key = re.sub(r"[^A-Za-z0-9_.+~-]", "-", key)
    guest = _read_guest(folder / key)
    if guest is None:
        _build(folder, key, apt, kernel, busybox)
        guest = _read_guest(folder / key)
        if guest is None:
            raise DownloadFailed(kernel.name, f"files in {folder / key} that changed while they were written")
    return guest


def _build(folder: Path, key: str, apt: Apt, kernel: Package, busybox: Package) -> None:
    """Download both packages, take the files out, and move them into place as one folder."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as name:
        work = Path(name)
        ready = work / "ready"
        ready.mkdir()
        contents = {}
        for package, pattern, target in ((kernel, KERNEL_PATH, "vmlinuz"), (busybox, BUSYBOX_PATH, "busybox")):
            archive = apt.download(package, work)
            [(_, content)] = extract(archive, [pattern])
            archive.unlink()
            (ready / target).write_bytes(content)
            contents[target] = hashlib.sha256(content).hexdigest()
        manifest = {"version": f"{kernel.name} {kernel.version}", "sha256": contents}
        (ready / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
        if (folder / key).exists():
            # A damaged one, or one that another process has just finished: either way ours is good.
            os.replace(folder / key, work / "damaged")
        try:
            os.replace(ready, folder / key)
        except OSError:
            if _read_guest(folder / key) is None:
                raise


def _read_guest(folder: Path) -> DebianGuest | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name in ("vmlinuz", "busybox"):
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != manifest["sha256"][name]:
                return None
        return DebianGuest(folder / "vmlinuz", folder / "busybox", str(manifest["version"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is either whole or not there."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
    os.replace(name, path)


class Apt:
    """apt's programs, run without root. `folder` holds private package lists once `update` has been called."""

    def __init__(self, folder: Path, report: Progress) -> None:
        for program in ("apt-get", "apt-cache"):
            if shutil.which(program) is None:
                raise AptMissing(program)
        self._folder = folder
        self._report = report
        self._private = (folder / "state" / "lists").is_dir()
        self._update_error = ""

    def show(self, package: str) -> Package:
        """apt's candidate for `package`. Raises PackageNotFound."""
        result = self._run(["apt-cache", *self._options(), "show", "--no-all-versions", package])
        fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", result.stdout.split("\n\n")[0], re.MULTILINE))
        if result.returncode or not {"Version", "SHA256"} <= fields.keys():
            if self._update_error:
                raise DownloadFailed("Debian's package lists", self._update_error)
            raise PackageNotFound(package)
        return Package(
            package, fields["Version"], fields["SHA256"], int(fields.get("Size", "0")), fields.get("Depends", "")
        )

    def update(self) -> None:
        """Fetch package lists into the private folder, from the system's sources."""
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self._folder / part).mkdir(parents=True, exist_ok=True)
        self._private = True
        self._update_error = self._follow("reading Debian's package lists", ["update"], self._folder)

    def download(self, package: Package, folder: Path) -> Path:
        """Download `package` into `folder` and check its hash. Raises DownloadFailed."""
        what = f"downloading {package.name} ({package.size / 1e6:.1f} MB)"
        target = f"{package.name}={package.version}"
        error = self._follow(what, ["download", target], folder)
        archives = list(folder.glob("*.deb"))
        if not archives:
            raise DownloadFailed(package.name, error)
        digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
        if digest != package.sha256:
            raise DownloadFailed(package.name, f"a file with SHA-256 {digest} instead of {package.sha256}")
        return archives[0]

    def _options(self) -> list[str]:
        options = ["-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30"]
        if os.geteuid() == 0:
            # As root, apt would drop to a user who cannot write to the cache folder.
            options += ["-o", "APT::Sandbox::User=root"]
        if self._private:
            state, cache = self._folder / "state", self._folder / "cache"
            options += ["-o", f"Dir::State={state}", "-o", f"Dir::State::lists={state / 'lists'}"]
            options += ["-o", "Dir::State::status=/dev/null", "-o", f"Dir::Cache={cache}"]
            options += ["-o", "APT::Architecture=amd64", "-o", "APT::Architectures::=amd64"]
        return options

    def _run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LC_ALL": "C"}
        return subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )

    def _follow(self, what: str, arguments: Sequence[str], folder: Path) -> str:
        """Run apt-get in `folder`, report its progress, and return what failed in one line, or nothing.

        An update that reached no mirror is no error to apt: it warns and returns 0.
        """
        self._report(what, 0.0)
        command = ["apt-get", "-q", *self._options(), "-o", "APT::Status-Fd=1", *arguments]
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            with subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                errors="replace",
            ) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    match = DOWNLOAD_STATUS.match(line)
                    if match:
                        self._report(what, min(float(match[1]) / 100, 1.0))
            self._report(what, 1.0)
            errors.seek(0)
            lines = [line.strip() for line in errors if line.startswith(("E: ", "W: Failed to fetch"))]
        if lines:
            return lines[0][3:]
        return f"apt-get's status {process.returncode}" if process.returncode else ""
