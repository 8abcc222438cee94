"""The families of random cases by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from trapgate.engine.handlers import HandlerStore

from .random_code import RandomCode
from .random_pages import RandomPages
from .random_tables import RandomTables


class Family(Protocol):
    """Runs cases on machines that it keeps."""

    def run(self, choose: random.Random, index: int) -> str:
        """One case, made from `choose` and its number alone; how it ended. Raises what went wrong."""

    def describe(self, index: int) -> str:
        """The case that has just failed, for a reader."""


FAMILIES: dict[str, Callable[[HandlerStore], Family]] = {
    "code": RandomCode,
    "tables": RandomTables,
    "pages": RandomPages,
}
