"""Sizes and counts as the user writes them."""

from __future__ import annotations

import re
from fractions import Fraction

from trapgate.cli.errors import InvalidCodeSize, InvalidCount, InvalidJobs, InvalidMemory, InvalidUnits

#: QEMU's suffixes (qemu(1), option -m, and util/cutils.c for the letters): powers of 1024, either case.
SHIFTS = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?)([bkmgt]?)", re.IGNORECASE | re.ASCII)
COUNT = re.compile(r"[0-9][0-9_]*", re.ASCII)
#: More digits than any size or count has; int() takes quadratic time for long strings.
LONGEST = 24
#: Digits: ten million blocks are 40 GB.
LONGEST_UNITS = 7
MOST_JOBS = 64
#: Megabytes of code.
MOST_CODE = 1024


def parse_memory(text: str) -> int:
    """Bytes of a size in QEMU's syntax: a plain number is megabytes. Raises InvalidMemory."""
    match = MEMORY.fullmatch(text)
    if match is None or len(text) > LONGEST:
        raise InvalidMemory(text)
    size = Fraction(match[1]) * (1 << SHIFTS[match[2].lower() or "m"])
    if size.denominator != 1 or size == 0:
        raise InvalidMemory(text)
    return size.numerator


def parse_count(text: str, option: str = "--max-instructions") -> int:
    """A positive whole number, the value of `option`; underscores may separate digits. Raises InvalidCount."""
    if not COUNT.fullmatch(text) or len(text) > LONGEST or int(text) == 0:
        raise InvalidCount(text, option)
    return int(text)


def parse_units(text: str) -> int:
    """How many frames, blocks and lines are measured. Raises InvalidUnits."""
    if not COUNT.fullmatch(text) or len(text) > LONGEST_UNITS or int(text) == 0:
        raise InvalidUnits(text)
    return int(text)


def parse_jobs(text: str) -> int:
    """How many runs at a time, 1 to 64. Raises InvalidJobs."""
    if not _is_count(text, MOST_JOBS):
        raise InvalidJobs(text, MOST_JOBS)
    return int(text)


def parse_code_size(text: str) -> int:
    """Bytes of so many megabytes, 1 to 1024. Raises InvalidCodeSize."""
    if not _is_count(text, MOST_CODE):
        raise InvalidCodeSize(text, MOST_CODE)
    return int(text) << 20


def _is_count(text: str, most: int) -> bool:
    """Whether it is a whole number from 1 to `most`."""
    return COUNT.fullmatch(text) is not None and len(text) <= LONGEST and 1 <= int(text) <= most
