"""What the tests of the API share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trapgate import Machine

from .code import ORIGIN

Maker = Callable[[bytes], Machine]


@pytest.fixture
def booted() -> Maker:
    """Makes a machine that is about to run some 16-bit code."""

    def make(code: bytes) -> Machine:
        machine = Machine(memory="1M")
        machine.boot(image=code, address=ORIGIN)
        return machine

    return make
