"""Finds, in the package's sources, every place that makes an error for the user."""

from __future__ import annotations

import ast
import functools
from dataclasses import dataclass

from support import ROOT

PACKAGE = ROOT / "src" / "trapgate"
#: What errors for the user derive from. A guest's own exceptions (cpu/faults.py's Fault) are not among them.
ROOTS = {
    "MachineError": "machine/errors.py", "CommandLineError": "cli/errors.py", "Unimplemented": "cpu/faults.py",
    "VmmError": "vmm/errors.py", "VmmMemoryError": "vmm/memory/errors.py",
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Site:
    """An expression that makes an error: file of the package, first and last line, and the class that it names."""

    file: str
    first: int
    last: int
    kind: str

    def __str__(self) -> str:
        return f"{self.file}:{self.first}: {self.kind}"


@functools.cache
def _trees() -> dict[str, ast.Module]:
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def _module_file(module: str | None) -> str:
    """`machine/errors.py` for `trapgate.machine.errors`."""
    path = "/".join((module or "").split(".")[1:])
    return f"{path}.py" if (PACKAGE / f"{path}.py").exists() else f"{path}/__init__.py"


def _names(tree: ast.Module, file: str) -> dict[str, tuple[str, str]]:
    """What a file calls by a plain name: (defining file, name there) of what it imports and of its own classes."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found[alias.asname or alias.name] = (_module_file(node.module), alias.name)
        elif isinstance(node, ast.ClassDef):
            found[node.name] = (file, node.name)
    return found


@functools.cache
def error_classes() -> frozenset[tuple[str, str]]:
    """(file, name) of every error class, the roots included."""
    bases: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for file, tree in _trees().items():
        names = _names(tree, file)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                own = [base.id for base in node.bases if isinstance(base, ast.Name)]
                bases[file, node.name] = {names[name] for name in own if name in names}
    found = {(file, name) for name, file in ROOTS.items()}
    while more := {place for place, of in bases.items() if place not in found and of & found}:
        found |= more
    return frozenset(found)


@functools.cache
def sites() -> frozenset[Site]:
    """Every call of an error class, and every `raise` of a bare one."""
    kinds = error_classes()
    found = set()
    for file, tree in _trees().items():
        names = _names(tree, file)
        for node in ast.walk(tree):
            name: ast.expr | None = None
            if isinstance(node, ast.Call):
                name = node.func
            elif isinstance(node, ast.Raise) and not isinstance(node.exc, ast.Call):
                name = node.exc
            if isinstance(name, ast.Name) and names.get(name.id) in kinds:
                assert isinstance(node, ast.expr | ast.stmt)
                found.add(Site(file, node.lineno, node.end_lineno or node.lineno, name.id))
    return frozenset(found)
