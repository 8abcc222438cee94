"""Sizes as people write them."""

from __future__ import annotations

import re

from trapgate.api.errors import InvalidSize

_SIZE = re.compile(r"([0-9]{1,12})([KMG])B?", re.IGNORECASE | re.ASCII)
_SHIFTS = {"K": 10, "M": 20, "G": 30}


def memory_size(size: int | str) -> int:
    """Bytes: a number of them, or a text such as "128M". Raises InvalidSize."""
    if isinstance(size, int) and size > 0:
        return size
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None:
        raise InvalidSize(size)
    return int(match[1]) << _SHIFTS[match[2].upper()]
