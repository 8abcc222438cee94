"""The runtime's functions that Python calls: attributes of the processor that cpu/registers.py declares."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

#: Attribute: (name in the runtime, how many words it takes, whether it gives one).
_CALLS = {
    "native_translate": ("translate_data", 3, True),
    "native_nested_walk": ("nested_walk", 3, True),
    "native_flush": ("flush", 2, False),
    "native_flush_asid": ("flush_asid", 3, False),
    "native_flush_all": ("flush_all", 1, False),
    "native_flush_page": ("flush_page", 2, False),
    "native_flush_page_asid": ("flush_page_asid", 3, False),
    "native_reset_fast": ("reset_fast", 1, False),
    "native_world_enter": ("world_enter", 1, True),
    "native_world_exchange": ("world_exchange", 1, True),
    "native_world_run": ("world_run", 1, True),
    "native_world_round_trip": ("world_round_trip", 1, True),
    "native_world_restore": ("world_restore", 1, False),
    "native_world_load": ("world_load", 1, False),
    "native_world_accept": ("world_accept", 1, False),
    "native_world_save": ("world_save", 1, False),
}


def connect(processor: object, runtime: Mapping[str, int]) -> None:
    """Give a processor its native functions; `runtime` has their host addresses."""
    word = ctypes.c_uint64
    for attribute, (name, words, gives) in _CALLS.items():
        prototype = ctypes.CFUNCTYPE(word if gives else None, *[word] * words)
        setattr(processor, attribute, prototype(runtime[name]))
