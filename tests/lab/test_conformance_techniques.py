"""The conformance kernels (tests/guests/conformance) in virtual machines: 16- and 32-bit code, paging, tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from guests.conformance import emulators, kernels, results
from trapgate.engine.handlers import HandlerStore

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not kernels.has_nasm(), reason="nasm is not installed (Debian package nasm)"),
]
KERNELS = kernels.all_kernels()
#: Under nested paging each walk reads PAE's page-directory pointers, MOV CR3 does not (APM vol. 2, 15.25.10).
NESTED = {
    "PAE: the directory pointers are read when CR3 is written",
    "PAE: reserved bits in a directory pointer make MOV CR3 #GP",
}


@pytest.fixture(scope="module")
def handlers() -> HandlerStore:
    return HandlerStore()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("kernels")
    return {kernel.name: kernels.assemble(kernel, folder) for kernel in KERNELS}


@pytest.mark.parametrize("technique", ["software", "shadow-tagged", "nested-tagged"])
@pytest.mark.parametrize("kernel", KERNELS, ids=[kernel.name for kernel in KERNELS])
def test_conformance(
    kernel: kernels.Kernel, technique: str, images: dict[str, bytes], handlers: HandlerStore, tmp_path: Path
) -> None:
    machine = emulators.Virtual(technique, handlers)
    found = results.run_kernel(kernel.checks, images[kernel.name], machine, tmp_path)
    failed = {name: outcome.detail for name, outcome in found.items() if outcome.status != results.PASS}
    known = NESTED & {check.name for check in kernel.checks} if technique.startswith("nested") else set()
    assert set(failed) == known, failed
