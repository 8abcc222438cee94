"""From LLVM assembly to machine code, and the folder in which compiled code is kept.

llvmlite 0.50: one target machine, the new pass manager, one MCJIT engine to which objects are added.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import platformdirs

#: Folders of compiled code that are kept, one for each version of trapgate, LLVM and processor.
KEPT_VERSIONS = 4

PREAMBLE = """
attributes #0 = { nounwind }
!0 = !{!"branch_weights", i32 1, i32 100000}
!1 = !{!"branch_weights", i32 100000, i32 1}
"""


#: The sources that say what native code is.
_GENERATING = (
    "arch/*.py", "isa/ir/*.py", "isa/context.py", "isa/flags.py", "isa/form.py",
    "isa/general_purpose/*.py", "isa/simd/*.py", "isa/x87/*.py",
    "isa/system/native_registers.py", "isa/system/privilege.py",
    "cpu/tlb.py", "cpu/lookup.py", "cpu/flush.py", "cpu/walk_cache.py", "cpu/walk.py",
    "cpu/walk_memory.py", "cpu/access.py", "cpu/native_delivery.py", "cpu/svm/world_switch.py",
    "engine/block_table.py", "engine/cold.py", "engine/fixed.py", "engine/operands.py", "engine/record.py",
    "engine/page_code.py", "engine/native_decode.py", "engine/native_translate.py", "engine/patterns.py",
    "engine/compile.py", "engine/handlers.py",
)  # fmt: skip


def assemble(functions: Iterable[str], declarations: Iterable[str]) -> str:
    """One module's text."""
    return "\n".join([PREAMBLE, *sorted(declarations), *functions])


class Compiler:
    """Compiles modules and gives the addresses of their functions."""

    def __init__(self) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.initialize_native_asmparser()
        self._machine = self._target_machine(1)
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), self._target_machine(1))
        self._objects: list[llvm.ObjectFileRef] = []

    @staticmethod
    def _target_machine(level: int) -> llvm.TargetMachine:
        return llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(),
            features=llvm.get_host_cpu_features().flatten(),
            opt=level,
            reloc="static",
            codemodel="jitdefault",
            jit=True,
        )

    def compile(self, text: str) -> bytes:
        """An object file from a module's text."""
        module = llvm.parse_assembly(text)
        options = llvm.create_pipeline_tuning_options(1)
        options.loop_vectorization = options.slp_vectorization = False
        options.loop_unrolling = options.loop_interleaving = False
        builder = llvm.create_pass_builder(self._machine, options)
        builder.getModulePassManager().run(module, builder)
        return bytes(self._machine.emit_object(module))

    def load(self, code: bytes) -> None:
        """Make the functions of an object file callable."""
        reference = llvm.ObjectFileRef.from_data(code)
        self._objects.append(reference)
        self._engine.add_object_file(reference)
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Address of a function in a loaded object."""
        address = int(self._engine.get_function_address(name))
        if not address:
            raise LookupError(f"no native function {name} has been loaded")
        return address


@functools.cache
def version_key() -> str:
    """What compiled code depends on besides its form: our sources, LLVM, and the host's processor."""
    digest = hashlib.sha256()
    package = Path(__file__).resolve().parent.parent
    for pattern in _GENERATING:
        for path in sorted(package.glob(pattern)):
            digest.update(path.relative_to(package).as_posix().encode())
            digest.update(path.read_bytes())
    digest.update(llvmlite.__version__.encode())
    digest.update(repr(llvm.llvm_version_info).encode())
    digest.update(llvm.get_host_cpu_name().encode())
    digest.update(llvm.get_host_cpu_features().flatten().encode())
    return digest.hexdigest()[:24]


class CodeFolder:
    """The user's folder of compiled code, one subfolder for each version key.

    Files appear by renaming, so that a reader never sees half of one; each begins with a hash of the rest, so that a
    truncated or altered file is noticed and made again. A folder that cannot be written to only means no cache.
    """

    def __init__(self, root: Path | None = None) -> None:
        default = os.environ.get("TRAPGATE_CACHE")
        base = root or (Path(default) if default else Path(platformdirs.user_cache_dir("trapgate")))
        self.folder = base / "code" / version_key()

    def _prune(self) -> None:
        """Keep the code of the few versions that were made last."""
        versions = sorted(self.folder.parent.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)
        for old in versions[KEPT_VERSIONS:]:
            shutil.rmtree(old, ignore_errors=True)

    def names(self) -> list[str]:
        """All files, oldest name first."""
        try:
            return sorted(p.name for p in self.folder.iterdir() if not p.name.startswith("."))
        except OSError:
            return []

    def listing(self) -> frozenset[str]:
        """The names of all files, in no order."""
        try:
            return frozenset(os.listdir(self.folder))
        except OSError:
            return frozenset()

    def read(self, name: str) -> bytes | None:
        """A file's content, or None when it is missing or damaged."""
        try:
            data = (self.folder / name).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            return None
        return data[32:]

    def keep_newest(self, prefix: str, count: int) -> None:
        """Delete all but the newest `count` files whose names begin so."""
        try:
            files = sorted(self.folder.glob(f"{prefix}*"), key=lambda p: p.stat().st_mtime, reverse=True)
            for old in files[count:]:
                old.unlink(missing_ok=True)
        except OSError:
            return

    def write(self, name: str, content: bytes) -> None:
        """Keep a file; failing to is no error."""
        temporary = self.folder / f".{name}.{os.getpid()}"
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True)
                self._prune()
            temporary.write_bytes(hashlib.sha256(content).digest() + content)
            temporary.replace(self.folder / name)
        except OSError:
            temporary.unlink(missing_ok=True)
