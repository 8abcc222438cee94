"""How LLVM compiles regions: with few passes, because more cost more than they bring (docs/engine.md)."""

from __future__ import annotations

import llvmlite.binding as llvm

from trapgate.engine.compile import Compiler

#: Part of the names of compiled regions: another number, other code.
VERSION = 1


class RegionCompiler(Compiler):
    """Compiles regions."""

    def compile(self, text: str) -> bytes:
        module = llvm.parse_assembly(text)
        builder = llvm.create_pass_builder(self._machine, llvm.create_pipeline_tuning_options(1))
        passes = llvm.create_new_function_pass_manager()
        passes.add_sroa_pass()
        passes.add_instruction_combine_pass()
        passes.add_simplify_cfg_pass()
        for function in module.functions:
            if not function.is_declaration:
                passes.run(function, builder)
        return bytes(self._machine.emit_object(module))
