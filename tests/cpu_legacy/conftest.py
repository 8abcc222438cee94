"""Runs a kernel here, and on QEMU where that is installed, and compares what it prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trapgate.engine.handlers import HandlerStore

from . import kernels

Check = Callable[..., None]


@pytest.fixture(scope="session")
def handlers() -> HandlerStore:
    """Compiled handlers."""
    return HandlerStore()


@pytest.fixture
def check(handlers: HandlerStore, tmp_path: Path) -> Check:
    """`check(code, expected)`: the lines that the kernel prints, here and on QEMU.

    With `qemu=False` not on QEMU: the test says what that does not have.
    """
    if kernels.missing("nasm"):
        pytest.skip("nasm is not installed")

    def run(code: str, expected: str, qemu: bool = True) -> None:
        kernel = kernels.assemble(code, tmp_path)
        wanted = [line.strip() for line in expected.strip().splitlines()]
        assert kernels.run_here(kernel, handlers) == wanted
        if qemu and not kernels.missing(kernels.QEMU):
            assert kernels.run_on_qemu(kernel, tmp_path) == wanted, "QEMU differs"

    return run
