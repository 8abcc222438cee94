"""Decoding: from bytes to the form of an instruction and the operands of its micro-op.

iced-x86 decodes; this file says how its result is carried out: which form (isa/form.py), what goes into the operand
slots, or which plain Python function. What it returns does not depend on where the instruction stands, so it is
remembered by the instruction's bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import iced_x86 as iced
from iced_x86 import Code, DecoderOptions, OpKind, Register

from trapgate.arch import layout
from trapgate.arch.registers import CS, DS, ES, FS, GS
from trapgate.isa.context import DEFINITIONS
from trapgate.isa.decoded import CHECKED, Decoded, Fields, Kind
from trapgate.isa.form import Form
from trapgate.isa.length import MAX_LENGTH, is_too_long
from trapgate.isa.naming import control_move, name_of, system_operand
from trapgate.isa.operand_tables import (
    ADDRESS_LETTER,
    BASE_WRITE,
    BITS_MATTER,
    CODES,
    CONTROL_READS,
    CONTROL_WRITES,
    COUNTED,
    FEATURES,
    IMMEDIATE_BITS,
    IMPLICIT_KINDS,
    MNEMONICS,
    NEAR,
    NO_ACCESS,
    REGISTER_SLOTS,
    SEGMENT_LOADS,
    SEGMENT_NUMBERS,
    SHIFTS,
    SIZED,
    SSE_FEATURES,
    SSE_WITHOUT_STATE,
    STACK_OPERATIONS,
    STRINGS,
    SYSTEM_REGISTERS,
)
from trapgate.isa.pattern import Pattern, PatternKey, pattern_key, pattern_of

#: AMD: how a 66h prefix acts on near branches. All reserved NOPs, ENDBR among them, are NOPs.
OPTIONS = DecoderOptions.AMD | DecoderOptions.FORCE_RESERVED_NOP

#: Most instructions that a decoder remembers.
REMEMBERED = 200_000

#: What a Python form gets: the processor (isa/processor.py) and the decoded instruction.
PythonForm = Callable[..., None]


class ModeView(Protocol):
    """What decoding needs of the mode (cpu/mode.py)."""

    @property
    def bits(self) -> int: ...
    @property
    def stack(self) -> str: ...
    @property
    def cpl(self) -> int: ...
    @property
    def virtual8086(self) -> bool: ...
    @property
    def io_allowed(self) -> bool: ...
    @property
    def time_stamp_allowed(self) -> bool: ...
    @property
    def x87(self) -> str: ...
    @property
    def sse(self) -> str: ...
    @property
    def mmx(self) -> str: ...
    @property
    def wait_nm(self) -> bool: ...
    @property
    def simd_checked(self) -> bool: ...
    @property
    def instruction_breakpoints(self) -> bool: ...
    @property
    def deprivileged(self) -> bool: ...
    @property
    def intercepted(self) -> frozenset[str]: ...
    def is_flat(self, segment: int) -> bool: ...


UD, NM = "raise_ud", "raise_nm"
#: What a translated kernel does on its virtual state without leaving native code.
IN_PLACE = frozenset((
    "cli", "sti", "pushf", "pushfd", "pushfq", "popf", "popfd", "popfq", "swapgs", "rdtsc", "rdtscp",
))  # fmt: skip


#: The level from which native code carries system calls out (isa/system/privilege.py).
NATIVE_AT = {"syscall": 3, "sysretq": 0}
CONTROL_MOVES = frozenset((*CONTROL_READS.values(), *CONTROL_WRITES.values()))
#: Operations whose operand that is a system register is part of their name.
_NAMED_REGISTERS = CONTROL_MOVES | frozenset(SEGMENT_LOADS.values())
_COSTS_AS = {f"{name}_long{suffix}": name for name in NATIVE_AT for suffix in ("", "_python")}
_COSTS_AS |= dict.fromkeys(SEGMENT_LOADS.values(), "mov_sreg") | {BASE_WRITE: "wrmsr"}


def _name_of_decoder(*inputs: object) -> str:
    parts = [repr(sorted(part) if isinstance(part, frozenset) else part) for part in inputs[1:]]
    mode = inputs[0]
    assert isinstance(mode, tuple)
    parts += [repr(sorted(field) if isinstance(field, frozenset) else field) for field in mode]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:20]


class Decoder:
    """Decodes for one mode and one set of instruction-set features; remembers by bytes.

    `python_forms` are the names of operations that Python carries out, `cycles` what operations cost that take other
    than one modelled cycle.
    """

    def __init__(
        self,
        mode: ModeView,
        features: frozenset[str],
        python_forms: frozenset[str],
        cycles: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.mode = mode
        #: What decoding depends on besides the bytes, as a name.
        self.name = _name_of_decoder(mode, features, python_forms, cycles)
        self._cycles = cycles
        self._features = features
        self._python_forms = python_forms
        self._memory: dict[bytes, Decoded] = {}
        #: None: each has to be looked at by itself.
        self._patterns: dict[PatternKey, Pattern | None] = {}
        self._operations: dict[int, tuple[str, int, bool]] = {}
        self._kinds: dict[tuple[object, ...], Kind] = {}

    def block(self, code: bytes, limit: int, single: bool) -> tuple[list[Decoded], bool]:
        """Decode from the start of `code` until a block ends, `limit` instructions, or the bytes run out.

        Returns the instructions and whether the bytes ran out inside an instruction.
        """
        decoder = iced.Decoder(self.mode.bits, code, OPTIONS, 0)
        out: list[Decoded] = []
        position = 0
        memory = self._memory
        size = len(code)
        while position < size and len(out) < limit:
            instruction = decoder.decode()
            if not instruction and decoder.last_error == iced.DecoderError.NO_MORE_BYTES:
                return out, True
            end = decoder.position
            key = code[position:end]
            decoded = memory.get(key)
            if decoded is None:
                if len(memory) >= REMEMBERED:
                    memory.clear()
                if instruction.code == Code.PAUSE and self.mode.bits == 64 and key[-2] & 0xF1 == 0x41:
                    # With REX.B opcode 90 is XCHG r8, rAX, whatever stands before it; iced-x86 says PAUSE.
                    instruction = iced.Decoder(64, key.replace(b"\xf3", b"\x3e"), OPTIONS, 0).decode()
                if not instruction and len(key) == MAX_LENGTH and is_too_long(key, self.mode.bits):
                    decoded = self._python(instruction, "raise_gp")
                else:
                    decoded = self._like_others(decoder, instruction, key)
                memory[key] = decoded
            out.append(decoded)
            position = end
            if decoded.ends_block or single:
                break
        return out, False

    def _like_others(self, decoder: iced.Decoder, instruction: iced.Instruction, code: bytes) -> Decoded:
        """As `_decode`, from an instruction that differs in its displacement and immediate alone, if there was one."""
        key = pattern_key(decoder, instruction, code) if instruction else None
        if key is None:
            return self._decode(instruction)
        known = self._patterns.get(key)
        if known is not None:
            return known.like(instruction)
        decoded = self._decode(instruction)
        if key not in self._patterns:
            self._patterns[key] = pattern_of(decoded)
        return decoded

    def fault(self, name: str) -> Decoded:
        """An instruction of no bytes that only raises an exception."""
        decoded = self._python(iced.Instruction(), name)
        decoded.length = 0
        return decoded

    def branch_outside(self, decoded: Decoded) -> Decoded:
        """What stands for a direct near branch whose target lies beyond the limit of CS (legacy modes)."""
        return self._python(decoded.instruction, "branch_outside")

    def _decode(self, instruction: iced.Instruction) -> Decoded:
        code = instruction.code
        operation = self._operations.get(code)
        if operation is None:
            operation = self._operations[code] = self._operation(instruction)
        name, condition, native = operation
        if name == "enter" and instruction.immediate(1) & 31 == 0:
            name, native = "enter0", True
        if name == "mov_cr" and self.mode.bits == 64 and self.mode.cpl == 0:
            name = control_move(instruction)
            native = name in CONTROL_MOVES and name not in self.mode.intercepted
            if name in CONTROL_MOVES and not native:
                name += "_python"
        if self.mode.bits == 64 and not self.mode.deprivileged and name in ("mov_sreg", "wrmsr"):
            name, native = self._system_move(instruction, name)
        return self._native(instruction, name, condition) if native else self._python(instruction, name)

    def _system_move(self, instruction: iced.Instruction, name: str) -> tuple[str, bool]:
        """MOV to a segment register and WRMSR: what native code can do has a name of its own."""
        if name == "wrmsr":
            found = BASE_WRITE if self.mode.cpl == 0 else ""
        else:
            found = SEGMENT_LOADS.get(SEGMENT_NUMBERS.get(instruction.op_register(0), -1), "")
        return (found, True) if found and found not in self.mode.intercepted else (name, False)

    def _operation(self, instruction: iced.Instruction) -> tuple[str, int, bool]:
        """(name, condition, whether it is native) of every instruction with the same iced code."""
        refused = self._refusal(instruction)
        if refused:
            return refused, -1, False
        name, condition = name_of(instruction, self._features)
        system = system_operand(instruction)
        if system and name in ("mov", "push", "pop"):
            name = f"{name}_{system}"
        if (
            name == "mov_sreg"
            and instruction.op_kind(1) == OpKind.REGISTER
            and (instruction.op_register(1) in SEGMENT_NUMBERS)
        ):
            name = "mov_from_sreg"
        if name == "iretq" and self.mode.bits == 64 and self.mode.cpl == 0 and not self.mode.instruction_breakpoints:
            name = "iretq_within"
        if self.mode.bits == 64 and NATIVE_AT.get(name) == self.mode.cpl:
            name += "_long"
        if self.mode.simd_checked and name + CHECKED in DEFINITIONS:
            name += CHECKED
        if self._needs_python(name):
            name = f"{name}_python"
        if name in self._python_forms:
            return name, -1, False
        if name not in DEFINITIONS:
            return "unimplemented", -1, False
        return name, condition, True

    def _refusal(self, instruction: iced.Instruction) -> str:
        """Which exception the instruction raises just by being there, or ''."""
        if not instruction:
            return UD
        names = {FEATURES[f] for f in instruction.cpuid_features()}
        mnemonic = MNEMONICS[instruction.mnemonic]
        # The NOPs of 0F 18 to 0F 1F came with the P6; before, these opcodes were not defined.
        is_nop = mnemonic in ("reservednop", "nop") and "MULTIBYTENOP" in self._features
        if not names <= self._features and mnemonic not in ("tzcnt", "lzcnt") and not is_nop:
            return UD
        mode = self.mode
        if mnemonic == "wait":  # an instruction of the 8086, iced says, and not of the FPU
            return NM if mode.wait_nm else ""
        if "FPU" in names or any(n.startswith("FPU") for n in names):
            return NM if mode.x87 else ""
        if mnemonic in SSE_WITHOUT_STATE:
            return ""
        refusal = ""
        if names & {"FXSR"}:
            refusal = mode.x87
        elif "MMX" in names or any(self._is_mm(instruction, i) for i in range(instruction.op_count)):
            refusal = mode.mmx
        elif names & SSE_FEATURES:
            refusal = mode.sse
        return {"": "", "nm": NM, "ud": UD}[refusal]

    @staticmethod
    def _is_mm(instruction: iced.Instruction, i: int) -> bool:
        return instruction.op_kind(i) == OpKind.REGISTER and Register.MM0 <= instruction.op_register(i) <= Register.MM7

    def _needs_python(self, name: str) -> bool:
        """Operations that are native only where no check of privilege is needed."""
        mode = self.mode
        if name in mode.intercepted:
            return True
        if mode.deprivileged and name in IN_PLACE:
            return name == "swapgs" and mode.bits != 64
        if name in ("cli", "sti"):
            return not mode.io_allowed or mode.virtual8086
        if name in ("popf", "popfd", "popfq"):
            return mode.cpl != 0 or mode.virtual8086
        if name in ("pushf", "pushfd", "pushfq"):
            return mode.virtual8086
        if name == "swapgs":
            return mode.cpl != 0 or mode.bits != 64
        return name in ("rdtsc", "rdtscp") and not mode.time_stamp_allowed

    def _python(self, instruction: iced.Instruction, name: str) -> Decoded:
        decoded = Decoded(instruction, name, self._cycles.get(_COSTS_AS.get(name, name), 1))
        decoded.python = True
        decoded.ends_block = True
        decoded.body = bytes(24)
        return decoded

    def _ip_mask(self, instruction: iced.Instruction) -> int:
        for i in range(instruction.op_count):
            kind = instruction.op_kind(i)
            if kind in NEAR:
                return {OpKind.NEAR_BRANCH16: 0xFFFF, OpKind.NEAR_BRANCH32: 0xFFFF_FFFF}.get(kind, (1 << 64) - 1)
        return (1 << self.mode.bits) - 1

    # -- native forms

    def _native(self, instruction: iced.Instruction, name: str, condition: int) -> Decoded:
        definition = DEFINITIONS[name]
        decoded = Decoded(instruction, name, self._cycles.get(_COSTS_AS.get(name, name), 1))
        decoded.ends_block = definition.ends_block
        fields = Fields()
        shapes: list[str] = []
        segment, implicit, address_bits = -1, "", 0
        has_memory = False
        for i in range(instruction.op_count):
            kind = instruction.op_kind(i)
            if kind == OpKind.REGISTER:
                if instruction.op_register(i) in SYSTEM_REGISTERS and name in _NAMED_REGISTERS:
                    continue
                if i and name in SHIFTS and instruction.op_register(i) == Register.CL and i == instruction.op_count - 1:
                    shapes.append("cl")
                    continue
                shape, slot = REGISTER_SLOTS[instruction.op_register(i)]
                shapes.append(shape)
                fields.slots.append(slot)
            elif kind == OpKind.MEMORY:
                if name == "xlatb":
                    segment = SEGMENT_NUMBERS[instruction.memory_segment]
                    address_bits = {"r64": 64, "r32": 32, "r16": 16}[REGISTER_SLOTS[instruction.memory_base][0]]
                    continue
                has_memory = name not in NO_ACCESS
                shapes.append(self._memory_operand(instruction, decoded, fields))
            elif kind in IMPLICIT_KINDS:
                address_bits = IMPLICIT_KINDS[kind]
                if kind not in (OpKind.MEMORY_ESDI, OpKind.MEMORY_ESEDI, OpKind.MEMORY_ESRDI):
                    segment = SEGMENT_NUMBERS[instruction.memory_segment]
            elif kind in NEAR:
                decoded.target_mask = self._ip_mask(instruction)
                target = instruction.near_branch_target
                decoded.target = (target - instruction.ip) & decoded.target_mask
            else:
                bits = IMMEDIATE_BITS[kind]
                shapes.append(fields.add_immediate(bits, instruction.immediate(i), kind))
        is_string = (name in STRINGS and name not in ("movsd", "cmpsd")) or name.endswith("_string")
        if is_string or name in ("xlatb", "maskmovq", "maskmovdqu"):
            implicit = self._implicit(segment)
            has_memory = True
            shapes = [s for s in shapes if name.startswith("maskmov")]
            if not name.startswith("maskmov"):
                fields.slots.clear()
        # A shift's effect on the flags depends on its count: one by 0 neither reads nor changes any.
        flags = (instruction.rflags_read, instruction.rflags_modified) if name in SHIFTS else ()
        repeat = self._repeat(instruction, name)
        key = (instruction.code, name, tuple(shapes), segment, address_bits, repeat, flags)
        kind_of = self._kinds.get(key)
        if kind_of is None:
            form = Form(
                name,
                tuple(shapes),
                condition,
                self._operand_bits(instruction, name),
                self._address_bits(instruction, name, address_bits),
                self.mode.stack if name in STACK_OPERATIONS else "",
                repeat,
                segment,
                implicit,
                bits=self.mode.bits if name in BITS_MATTER else 0,
            )
            kind_of = self._kinds[key] = Kind(form, instruction, has_memory, definition.ends_block)
        decoded.form, decoded.text, decoded.dead_text = kind_of.form, kind_of.text, kind_of.dead_text
        decoded.may_fault, decoded.writes_memory = kind_of.may_fault, kind_of.writes_memory
        decoded.flags_read, decoded.flags_killed = kind_of.flags_read, kind_of.flags_killed
        decoded.body = fields.pack()
        return decoded

    def _memory_operand(self, instruction: iced.Instruction, decoded: Decoded, fields: Fields) -> str:
        bits = iced.MemorySizeExt.size(instruction.memory_size) * 8 if decoded.name not in NO_ACCESS else 0
        if instruction.code == Code.MOVSXD_R16_RM16:
            bits = 32  # APM vol. 3, MOVSXD: the source is reg/mem32 for every operand size; Intel's has 16 bits
        base, index = instruction.memory_base, instruction.memory_index
        displacement = instruction.memory_displacement
        number = SEGMENT_NUMBERS[instruction.memory_segment]
        mode = self.mode
        if base in (Register.RIP, Register.EIP):
            decoded.relative = (displacement - instruction.ip) & (0xFFFF_FFFF_FFFF_FFFF)
            address_bits, address = (64 if base == Register.RIP else 32), "a"
        elif base == Register.NONE and index == Register.NONE and instruction.memory_displ_size == 8:
            fields.wide = displacement
            address_bits, address = 64, "a"
        else:
            known = base if base != Register.NONE else index
            if known == Register.NONE:
                address_bits = {2: 16, 4: 32, 8: 64}[instruction.memory_displ_size]
                if mode.bits == 64 and address_bits == 64:
                    address_bits = 64
            else:
                address_bits = {"r64": 64, "r32": 32, "r16": 16}[REGISTER_SLOTS[known][0]]
            fields.slots.append(REGISTER_SLOTS[base][1] if base != Register.NONE else layout.ZERO)
            address = "b"
            if index != Register.NONE:
                fields.slots.append(REGISTER_SLOTS[index][1])
                address = f"x{instruction.memory_index_scale}"
            fields.displacement = displacement & 0xFFFF_FFFF
        if mode.bits == 64:
            segment = "g" if number in (FS, GS) else ""
        else:
            segment = "" if mode.is_flat(number) and number != CS else "s"
        if segment and decoded.name not in NO_ACCESS:
            fields.slots.append(layout.segment(number))
        else:
            segment = ""
        return f"m{bits}{address}{ADDRESS_LETTER[address_bits]}{segment}"

    def _implicit(self, source: int) -> str:
        mode = self.mode
        if mode.bits == 64:
            return "g" if source in (FS, GS) else ""
        return "" if mode.is_flat(ES) and source in (-1, DS) and mode.is_flat(DS) else "s"

    def _operand_bits(self, instruction: iced.Instruction, name: str) -> int:
        base = name.removesuffix("_string")
        if base in STRINGS and ((name in STRINGS and name not in ("movsd", "cmpsd")) or name != base):
            return STRINGS[base]
        if name in SIZED:
            return SIZED[name]
        if name in ("call", "call_indirect", "ret", "leave", "enter0"):
            code = CODES[instruction.code]
            if name in ("leave", "enter0", "ret"):
                return {"W": 16, "D": 32, "Q": 64}[code.replace("_IMM16_IMM8", "").replace("_IMM16", "")[-1]]
            return int(code[-2:]) if code[-2:] in ("16", "32", "64") else 64
        if name[0] == "f" and ("env" in name or "sav" in name or "rstor" in name):
            return self._environment_bits(instruction)
        return 0

    @staticmethod
    def _environment_bits(instruction: iced.Instruction) -> int:
        """16 or 32 for x87 environment images; 64 for FXSAVE64."""
        code = CODES[instruction.code]
        if code.endswith("64_M512BYTE"):
            return 64
        return 16 if "14BYTE" in code or "94BYTE" in code else 32

    def _address_bits(self, instruction: iced.Instruction, name: str, implicit: int) -> int:
        if implicit:
            return implicit
        if name in COUNTED:
            return COUNTED[name]
        if name in ("loop", "loope", "loopne"):
            code = CODES[instruction.code]
            return 64 if code.endswith("RCX") else 32 if code.endswith("ECX") else 16
        return 0

    @staticmethod
    def _repeat(instruction: iced.Instruction, name: str) -> str:
        if not (instruction.has_rep_prefix or instruction.has_repne_prefix):
            return ""
        base = name.removesuffix("_string")
        if base not in STRINGS or name in ("movsd", "cmpsd"):
            return ""
        if base[:4] in ("cmps", "scas"):
            return "rep" if instruction.has_rep_prefix else "repne" if instruction.has_repne_prefix else ""
        return "rep" if instruction.has_rep_prefix or instruction.has_repne_prefix else ""
