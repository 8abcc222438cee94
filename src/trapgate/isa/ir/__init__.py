"""Typed values in which the semantics of instructions are written; operators emit LLVM assembly text."""

from trapgate.isa.ir.emitter import CONVENTION, Emitter, Loop, Variable
from trapgate.isa.ir.value import Value, signed

__all__ = ["CONVENTION", "Emitter", "Loop", "Value", "Variable", "signed"]
