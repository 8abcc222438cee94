"""Every check of every kernel passes on trapgate, and on QEMU, where that is installed, but for known differences."""

from __future__ import annotations

from pathlib import Path

import pytest

from trapgate.engine.handlers import HandlerStore

from . import emulators, kernels, notes, results

pytestmark = pytest.mark.engine
needs_nasm = pytest.mark.skipif(not kernels.has_nasm(), reason="nasm is not installed (Debian package nasm)")
KERNELS = kernels.all_kernels()
NAMES = [kernel.name for kernel in KERNELS]


@pytest.fixture(scope="module")
def trapgate() -> emulators.Trapgate:
    return emulators.Trapgate(HandlerStore())


@pytest.mark.parametrize("kernel", KERNELS, ids=NAMES)
def test_checks_are_named_once(kernel: kernels.Kernel) -> None:
    names = [check.name for other in KERNELS for check in other.checks]
    assert kernel.checks
    assert not {check.name for check in kernel.checks if names.count(check.name) > 1}


@needs_nasm
@pytest.mark.parametrize("kernel", KERNELS, ids=NAMES)
def test_trapgate_passes(kernel: kernels.Kernel, trapgate: emulators.Trapgate, tmp_path: Path) -> None:
    found = results.run_kernel(kernel.checks, kernels.assemble(kernel, tmp_path), trapgate, tmp_path)
    failed = {name: outcome.detail for name, outcome in found.items() if outcome.status != results.PASS}
    gaps = {check.name for check in kernel.checks if check.name in notes.KNOWN_GAPS}
    assert {name: why for name, why in failed.items() if name not in gaps} == {}
    assert gaps - set(failed) == set(), "these pass now: take them out of KNOWN_GAPS"


@needs_nasm
@pytest.mark.parametrize("technique", notes.TECHNIQUE_DIFFERENCES)
@pytest.mark.parametrize("kernel", KERNELS, ids=NAMES)
def test_guests_of_techniques_pass(
    kernel: kernels.Kernel, technique: str, trapgate: emulators.Trapgate, tmp_path: Path
) -> None:
    """A virtual machine is the bare one but for what the manual says."""
    virtual = emulators.Virtual(technique, trapgate.handlers)
    found = results.run_kernel(kernel.checks, kernels.assemble(kernel, tmp_path), virtual, tmp_path)
    failed = {name: outcome.detail for name, outcome in found.items() if outcome.status != results.PASS}
    known = notes.TECHNIQUE_DIFFERENCES[technique]
    assert {name: why for name, why in failed.items() if name not in known} == {}
    here = {check.name for check in kernel.checks} & set(known)
    assert here == set(failed), "these pass now: take them out of TECHNIQUE_DIFFERENCES"


@needs_nasm
@pytest.mark.parametrize("kernel", KERNELS, ids=NAMES)
def test_qemu_passes_but_for_known_differences(kernel: kernels.Kernel, tmp_path: Path) -> None:
    """The peer that shows that the checks ask for what others think the manual says too."""
    qemu = emulators.Qemu("tcg")
    if qemu.missing:
        pytest.skip(qemu.missing)
    image = kernels.assemble(kernel, tmp_path)
    known = {number for number, check in enumerate(kernel.checks) if notes.difference(check.name)}
    checks = [check for number, check in enumerate(kernel.checks) if number not in known]
    if not checks:
        pytest.skip("a kernel of nothing but known differences")
    found = results.run_kernel(kernel.checks, image, qemu, tmp_path, frozenset(known))
    allowed = (results.PASS, results.SKIP)
    assert {name: o.detail for name, o in found.items() if o.status not in allowed} == {}


def test_a_text_that_ends_early_is_no_pass(tmp_path: Path) -> None:
    """What is behind the end of a run counts as failed, and the check at the end is left out of the next run."""

    class Fake:
        name = "fake"
        runs: list[bytes] = []

        def run(self, image: bytes, folder: Path) -> emulators.Output:
            self.runs.append(image)
            return emulators.Output("PASS a\n" if len(self.runs) == 1 else "FAIL c: value 1: wanted 2, got 3\n", "hang")

    checks = [kernels.Check(name, "") for name in "abc"]
    found = results.run_kernel(checks, bytes(64), Fake(), tmp_path)
    assert [found[name].status for name in "abc"] == [results.PASS, results.STOPPED, results.FAIL]
    assert found["b"].detail == "hang"
    assert found["c"].detail == "value 1: wanted 2, got 3"
    assert Fake.runs[1][32:35] == b"\1\1\0"
