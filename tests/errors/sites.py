"""Finds, in the package's sources, every place that makes an error for the user."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from support import ROOT

PACKAGE = ROOT / "src" / "trapgate"
#: What errors for the user derive from. A guest's own exceptions (cpu/faults.py's Fault) are not among them.
ROOTS = frozenset(("MachineError", "CommandLineError", "Unimplemented"))


@dataclass(frozen=True, order=True)
class Site:
    """An expression that makes an error: a file of the package, its lines, and the class that it names."""

    file: str
    first: int
    last: int
    kind: str

    def __str__(self) -> str:
        return f"{self.file}:{self.first}: {self.kind}"


def _trees() -> dict[str, ast.Module]:
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def error_classes() -> dict[str, str]:
    """Names of all error classes, the roots included, with the files that define them."""
    bases: dict[str, tuple[str, frozenset[str]]] = {}
    for file, tree in _trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                names = frozenset(base.id for base in node.bases if isinstance(base, ast.Name))
                if node.name in ROOTS or names & bases.keys() or names:
                    bases.setdefault(node.name, (file, names))
    found = {name: file for name, (file, _) in bases.items() if name in ROOTS}
    while True:
        more = {n: file for n, (file, names) in bases.items() if n not in found and names & found.keys()}
        if not more:
            return found
        found |= more


def sites() -> frozenset[Site]:
    """Every call of an error class, and every `raise` of a bare one."""
    kinds = error_classes()
    found = set()
    for file, tree in _trees().items():
        for node in ast.walk(tree):
            name: ast.expr | None = None
            if isinstance(node, ast.Call):
                name = node.func
            elif isinstance(node, ast.Raise) and not isinstance(node.exc, ast.Call):
                name = node.exc
            if isinstance(name, ast.Name) and name.id in kinds:
                assert isinstance(node, ast.expr | ast.stmt)
                found.add(Site(file, node.lineno, node.end_lineno or node.lineno, name.id))
    return frozenset(found)
