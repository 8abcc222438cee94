"""Anything at all is done to every device of the board: registers, rings, time, snapshots.

No exception leaves a device but the documented one (a feature that is not there), nothing outside RAM is touched,
snapshots are plain and exact, and what is counted is bounded. `TRAPGATE_DEVICE_FUZZ=1000` does 100,000 operations on
each device; TRAPGATE_DEVICE_SEED chooses others.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .everything import Everything

OPERATIONS = int(os.environ.get("TRAPGATE_DEVICE_FUZZ", "8")) * 100
SEED = int(os.environ.get("TRAPGATE_DEVICE_SEED", "1"))
#: Operations on one board, and between two looks at everything.
BOARD, LOOK = 5000, 200
#: Operations for which a copy goes on beside the original.
BESIDE = 60


def targets() -> list[str]:
    return Everything(Path(), 0).targets()


@pytest.mark.parametrize("target", targets())
def test_no_guest_breaks_it(target: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    done = 0
    while done < OPERATIONS:
        board = Everything(tmp_path, SEED * 1_000_003 + done)
        for number in range(min(BOARD, OPERATIONS - done)):
            result = board.step(target)
            assert result is None or isinstance(result, str) or (isinstance(result, int) and 0 <= result < 1 << 64)
            if number % LOOK == LOOK - 1:
                board.check()
                snapshot = board.pc.snapshot()
                board.pc.restore(snapshot)
                assert board.pc.snapshot() == snapshot
        done += BOARD


@pytest.mark.parametrize("target", targets())
def test_a_restored_board_goes_on_as_the_original(target: str, tmp_path: Path) -> None:
    board = Everything(tmp_path, SEED)
    for _ in range(max(1, OPERATIONS // 4000)):
        for _ in range(300):
            board.step(target)
        # Files of the host are outside: what the original does to them is not undone for the copy.
        beside = board.copy()
        for _ in range(BESIDE):
            state = board.chance.getstate()
            result = board.step(target)
            beside.chance.setstate(state)
            if not target.startswith("virtio-9p"):
                assert beside.step(target) == result
        if not target.startswith("virtio-9p"):
            assert beside.pc.snapshot() == board.pc.snapshot()
