"""Handlers of the cold tier: built when a form is first needed, in batches, and kept on disk.

A handler's key is the text of its form, or of several fused ones joined by "|". A batch on disk is a list of keys and
an object file whose functions are named after the batch and the key's place in the list.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources

import trapgate.isa.general_purpose
import trapgate.isa.simd
import trapgate.isa.system.native_registers
import trapgate.isa.system.privilege
import trapgate.isa.x87  # noqa: F401  (each registers its semantics)
from trapgate.cpu.access import emit_runtime
from trapgate.engine import record
from trapgate.engine.block_table import generate_link, generate_lookup
from trapgate.engine.cold import ColdContext
from trapgate.engine.compile import CodeFolder, Compiler, assemble
from trapgate.engine.fixed import generate_exit, generate_page_check, generate_python_exit
from trapgate.engine.native_decode import generate_decode
from trapgate.engine.native_translate import generate_translate
from trapgate.engine.page_code import generate_lay_out
from trapgate.isa.form import Form

Progress = Callable[[str, int, int], None]

#: Native helper functions that Python or handlers call.
RUNTIME = (
    "slow_access", "commit", "fetch_page", "enter", "flush", "flush_asid", "flush_all", "flush_page", "flush_page_asid",
    "reset_fast", "protect", "nested_walk",
    "world_enter", "world_exchange", "world_run", "world_round_trip", "world_load", "world_accept", "world_save",
    "world_restore",
    "translate_data", "translate_instruction", "lay_out", "decode",
)  # fmt: skip
FIXED: Mapping[str, Callable[[str], str]] = {
    "python": generate_python_exit,
    "port": lambda name: generate_python_exit(name, record.EXIT_PORT),
    "page_check": generate_page_check,
    "unlinked_target": lambda name: generate_link(name, is_target=True),
    "unlinked_next": lambda name: generate_link(name, is_target=False),
    "lookup": generate_lookup,
    "stale": lambda name: generate_exit(name, record.EXIT_STALE),
}
_BATCH = 96


def _no_progress(stage: str, done: int, total: int) -> None:
    pass


class HandlerStore:
    """All handlers of this process. `progress(stage, done, total)` hears of long builds."""

    def __init__(self, folder: CodeFolder | None = None, progress: Progress = _no_progress) -> None:
        self._compiler = Compiler()
        self.folder = folder or CodeFolder()
        self._progress = progress
        self._names: dict[str, str] = {}
        self._addresses: dict[str, int] = {}
        self.runtime: dict[str, int] = {}
        self.fixed: dict[str, int] = {}
        #: Handlers compiled by this process (not taken from the cache).
        self.built = 0
        self._load_runtime()
        self._load_batches()

    def _load_runtime(self) -> None:
        code = self.folder.read("runtime")
        if code is None:
            self._progress("native helpers", 0, 1)
            functions, declarations = emit_runtime()
            functions += [
                generate_lay_out(declarations),
                generate_decode(declarations),
                generate_translate(declarations),
            ]
            functions += [generate("fixed_" + name) for name, generate in FIXED.items()]
            code = self._compiler.compile(assemble(functions, declarations))
            self.folder.write("runtime", code)
            self._progress("native helpers", 1, 1)
        self._compiler.load(code)
        self.runtime = {name: self._compiler.address(name) for name in RUNTIME}
        self.fixed = {name: self._compiler.address("fixed_" + name) for name in FIXED}

    def _load_batches(self) -> None:
        for name in self.folder.names():
            if name.startswith("batch-"):
                data = self.folder.read(name)
                if data is not None:
                    self._load_batch(name, data)

    def _load_batch(self, name: str, data: bytes) -> None:
        (length,) = struct.unpack_from("<I", data)
        keys: list[str] = json.loads(data[4 : 4 + length])
        if all(key in self._names for key in keys):
            return
        self._compiler.load(data[4 + length :])
        for i, key in enumerate(keys):
            self._names.setdefault(key, _symbol(name, i))

    def has(self, key: str) -> bool:
        """Whether a handler is there without building it."""
        return key in self._names

    def address(self, key: str) -> int:
        """The address of a handler; builds it when it is not there."""
        address = self._addresses.get(key)
        if address is None:
            if key not in self._names:
                self.build([key])
            address = self._addresses[key] = self._compiler.address(self._names[key])
        return address

    def build(self, keys: Iterable[str]) -> None:
        """Build handlers that are not there yet."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._names]
        for start in range(0, len(missing), _BATCH):
            if len(missing) > 8:
                self._progress("native handlers", start, len(missing))
            self._build_batch(missing[start : start + _BATCH])
        if len(missing) > 8:
            self._progress("native handlers", len(missing), len(missing))

    def _build_batch(self, keys: Sequence[str]) -> None:
        listing = json.dumps(keys).encode()
        name = "batch-" + hashlib.sha256(listing).hexdigest()[:20]
        declarations: set[str] = set()
        functions = [
            ColdContext([Form.parse(text) for text in key.split("|")], _symbol(name, i), declarations).generate()
            for i, key in enumerate(keys)
        ]
        code = self._compiler.compile(assemble(functions, declarations))
        data = struct.pack("<I", len(listing)) + listing + code
        self.folder.write(name, data)
        self._load_batch(name, data)
        self.built += len(keys)

    def build_usual(self) -> None:
        """Build the handlers that most guests need (seeds.txt) in one go, where they are not there yet."""
        text = resources.files("trapgate.engine").joinpath("seeds.txt").read_text()
        self.build(line for line in text.splitlines() if line and not line.startswith("#"))

    def keys(self) -> list[str]:
        """Every key that is there."""
        return list(self._names)


def _symbol(batch: str, number: int) -> str:
    return f"h_{batch[6:]}_{number}"
