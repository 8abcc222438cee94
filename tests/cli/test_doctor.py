"""`trapgate doctor` and what it looks at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import Command
from trapgate.lab import host

FIELDS = {
    "processor", "processors", "features", "python", "llvmlite", "llvm", "cache_folder", "cache_bytes", "apt", "kvm",
    "peers", "problems",
}  # fmt: skip


def test_the_table_names_everything(command: Command) -> None:
    answer = command("doctor")
    assert answer.status == 0
    for word in ("processor", "features", "Python", "LLVM", "cache", "apt", "/dev/kvm", *host.PEERS):
        assert word in answer.output


def test_json(command: Command) -> None:
    answer = command("doctor", "--json")
    report = json.loads(answer.output)
    assert set(report) == FIELDS
    assert report["problems"] == []
    assert set(report["peers"]) == set(host.PEERS)
    assert report["processors"] >= 1
    assert int(report["llvm"].split(".")[0]) >= 15


def test_a_missing_engine_is_a_problem(tmp_path: Path) -> None:
    report = host.examine_host(tmp_path, None)
    assert "wanted llvmlite, got an import error: reinstall trapgate with pip" in report.problems


def test_cache_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(100))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b").write_bytes(bytes(23))
    assert host.folder_size(tmp_path) == 123
    assert host.folder_size(tmp_path / "none") == 0


def test_kvm_says_why_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "KVM", tmp_path / "kvm")
    assert host._kvm() == "not usable: No such file or directory"
    (tmp_path / "kvm").touch()
    assert host._kvm() == "usable"


def test_a_peer_that_is_not_there_or_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert host._peer_version("nasm", ["-v"]) is None
    program = tmp_path / "nasm"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    assert host._peer_version("nasm", ["-v"]) == "found, but does not start"
    program.write_text("#!/bin/sh\necho\necho NASM version 9\n")
    assert host._peer_version("nasm", ["-v"]) == "NASM version 9"


def test_a_host_without_cpuinfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "CPUINFO", tmp_path / "none")
    assert host._processor()[1] == ()
