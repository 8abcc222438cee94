"""Single files of a Debian package, fetched through apt and kept in the cache: guests that Debian ships whole."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trapgate.lab.debian import (
    MANIFEST,
    Apt,
    DownloadFailed,
    PackageNotFound,
    Progress,
    default_cache,
    write_atomically,
)
from trapgate.lab.debian_package import extract


@dataclass(frozen=True)
class PackageFiles:
    """Files of a package in the cache, by the names that were asked for; `version` has the package's name too."""

    paths: Mapping[str, Path]
    version: str


def fetch_files(
    package: str, wanted: Mapping[str, str], progress: Progress | None = None, cache: Path | None = None
) -> PackageFiles:
    """The files of `package` whose paths match the regular expressions of `wanted`, kept under its keys.

    Raises DebianUnavailable, CorruptPackage, OSError where the cache folder cannot be written.
    """
    base = cache if cache is not None else default_cache()
    folder = base / package
    found = _read(folder, wanted)
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    apt = Apt(base / "apt", progress or (lambda what, share: None))
    try:
        _download(folder, apt, package, wanted)
    except (PackageNotFound, DownloadFailed):
        # The system's lists are missing, or so old that the mirror no longer has what they name.
        apt.update()
        _download(folder, apt, package, wanted)
    found = _read(folder, wanted)
    if found is None:
        raise DownloadFailed(package, f"files in {folder} that changed while they were written")
    return found


def _download(folder: Path, apt: Apt, package: str, wanted: Mapping[str, str]) -> None:
    candidate = apt.show(package)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as name:
        archive = apt.download(candidate, Path(name))
        contents = dict(zip(wanted, extract(archive, list(wanted.values())), strict=True))
    digests = {}
    for target, (_, content) in contents.items():
        write_atomically(folder / target, content)
        digests[target] = hashlib.sha256(content).hexdigest()
    manifest = {"version": f"{candidate.name} {candidate.version}", "sha256": digests}
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())


def _read(folder: Path, wanted: Mapping[str, str]) -> PackageFiles | None:
    """What an earlier fetch left, if every byte of it is still there; apt is not asked."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name in wanted:
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != manifest["sha256"][name]:
                return None
        return PackageFiles({name: folder / name for name in wanted}, str(manifest["version"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
