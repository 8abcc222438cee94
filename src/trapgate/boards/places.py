"""What of a board takes input from outside by itself: keyboard and mouse."""

from __future__ import annotations

from dataclasses import dataclass

from trapgate.boards.pc import Pc
from trapgate.machine.outside import Deliver, Outside

KEYBOARD, MOUSE = "keyboard", "mouse"


@dataclass(frozen=True, slots=True)
class InputPlaces:
    """Where a viewer's keys (scan codes of set 2) and movements (devices.i8042.MOVEMENT) are delivered."""

    keyboard: Deliver
    mouse: Deliver


def add_input_places(outside: Outside, board: Pc) -> InputPlaces:
    """Name the places of `board`."""
    return InputPlaces(outside.add_place(KEYBOARD, board.keyboard.press), outside.add_place(MOUSE, board.keyboard.move))
