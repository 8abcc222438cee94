"""Emits LLVM assembly text: one Emitter writes one function.

Text, because building it costs a tenth of what an object tree costs. Control flow inside a semantic function is written
with `with emit.when(condition):` and `with emit.loop() as loop:`; values that change along the way live in a
`Variable`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from trapgate.isa.ir.value import Value, signed

#: Calling convention of all native code: state, micro-op and budget stay in registers across tail calls.
CONVENTION = "preserve_nonecc"

_INT = re.compile(r"i(\d+)$")
_VECTOR = re.compile(r"<(\d+) x (\w+)>$")
_FLOAT_WIDTHS = {"half": 16, "float": 32, "double": 64, "x86_fp80": 80, "ptr": 0}


def width_of(type_: str) -> int:
    """Size in bits of an LLVM type (0 for ptr)."""
    match = _INT.match(type_)
    if match:
        return int(match[1])
    match = _VECTOR.match(type_)
    if match:
        return int(match[1]) * width_of(match[2])
    return _FLOAT_WIDTHS[type_]


class Variable:
    """A mutable value inside one function."""

    __slots__ = ("_emit", "_pointer", "_type")

    def __init__(self, emit: Emitter, pointer: Value, type_: str) -> None:
        self._emit = emit
        self._pointer = pointer
        self._type = type_

    def get(self) -> Value:
        """Its value here."""
        return self._emit.load_type(self._type, self._pointer)

    def set(self, value: Value | int) -> None:
        """Assign it."""
        if not isinstance(value, Value):
            value = self._emit.typed_constant(value, self._type)
        if value.type != self._type:
            raise TypeError(f"variable of type {self._type} assigned a {value.type}")
        self._emit.store(value, self._pointer)


class Loop:
    """The running loop: `break_if(condition)` leaves it."""

    __slots__ = ("_emit", "_exit", "_head")

    def __init__(self, emit: Emitter, head: str, exit_: str) -> None:
        self._emit = emit
        self._head = head
        self._exit = exit_

    def break_if(self, condition: Value) -> None:
        """Leave the loop when `condition` (i1) holds."""
        go_on = self._emit.new_label("go")
        self._emit.branch(condition, self._exit, go_on)
        self._emit.label(go_on)

    def again(self) -> None:
        """Start the next turn."""
        self._emit.jump(self._head)

    def continue_if(self, condition: Value) -> None:
        """Start the next turn when `condition` (i1) holds."""
        go_on = self._emit.new_label("go")
        self._emit.branch(condition, self._head, go_on)
        self._emit.label(go_on)


class Emitter:
    """The text of one LLVM function, and the intrinsics that it declares."""

    def __init__(self, declarations: set[str] | None = None) -> None:
        self.lines: list[str] = []
        self.allocas: list[str] = []
        self.declarations: set[str] = set() if declarations is None else declarations
        self._counter = 0
        self.terminated = False
        self.current_label = "entry"

    # -- names, constants

    def _new(self) -> str:
        self._counter += 1
        return f"%t{self._counter}"

    def new_label(self, hint: str = "L") -> str:
        """A label that no other block has."""
        self._counter += 1
        return f"{hint}{self._counter}"

    def constant(self, value: int, width: int) -> Value:
        """The integer constant `value` of `width` bits."""
        return Value(self, str(signed(value, width)) if width > 1 else str(value & 1), f"i{width}", width)

    def typed_constant(self, value: int, type_: str) -> Value:
        """The constant `value` of an integer type, or splatted over a vector type."""
        match = _VECTOR.match(type_)
        if match:
            element = self.typed_constant(value, match[2])
            text = "<" + ", ".join([f"{element.type} {element.name}"] * int(match[1])) + ">"
            return Value(self, text, type_, width_of(type_))
        return self.constant(value, width_of(type_))

    def constant_like(self, value: int, like: Value) -> Value:
        """The constant `value` of the type of `like`."""
        return self.typed_constant(value, like.type)

    def vector_constant(self, elements: Sequence[int], element_type: str) -> Value:
        """A vector of integer constants."""
        width = width_of(element_type)
        text = "<" + ", ".join(f"{element_type} {signed(x, width) if width > 1 else x & 1}" for x in elements) + ">"
        type_ = f"<{len(elements)} x {element_type}>"
        return Value(self, text, type_, width_of(type_))

    def null(self) -> Value:
        """The null pointer."""
        return Value(self, "null", "ptr", 0)

    def raw(self, text: str) -> None:
        """A line of LLVM assembly as it is."""
        self.lines.append(" " + text)

    def define(self, text: str, type_: str) -> Value:
        """A new value `= text`."""
        name = self._new()
        self.lines.append(f" {name} = {text}")
        return Value(self, name, type_, width_of(type_))

    # -- operations

    def binary(self, operation: str, a: Value, b: Value) -> Value:
        """A binary operator on equal types."""
        return self.define(f"{operation} {a.type} {a.name}, {b.name}", a.type)

    def compare(self, predicate: str, a: Value, b: Value) -> Value:
        """Integer or pointer comparison; i1, or a vector of i1."""
        match = _VECTOR.match(a.type)
        return self.define(f"icmp {predicate} {a.type} {a.name}, {b.name}", f"<{match[1]} x i1>" if match else "i1")

    def cast(self, operation: str, a: Value, width: int) -> Value:
        """zext, sext or trunc, element by element for vectors (`width` is then the element's)."""
        match = _VECTOR.match(a.type)
        type_ = f"<{match[1]} x i{width}>" if match else f"i{width}"
        return self.define(f"{operation} {a.type} {a.name} to {type_}", type_)

    def convert(self, operation: str, a: Value, type_: str) -> Value:
        """Any LLVM conversion instruction, for example fpext, uitofp, ptrtoint."""
        return self.define(f"{operation} {a.type} {a.name} to {type_}", type_)

    def bitcast(self, a: Value, type_: str) -> Value:
        """The same bits as another type."""
        return self.define(f"bitcast {a.type} {a.name} to {type_}", type_)

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """`a` where `condition` holds, else `b`."""
        if a.type != b.type:
            raise TypeError(f"select between {a.type} and {b.type}")
        return self.define(f"select {condition.type} {condition.name}, {a.type} {a.name}, {b.type} {b.name}", a.type)

    def shuffle(self, a: Value, b: Value, mask: Sequence[int]) -> Value:
        """shufflevector with constant indices (those of `b` follow those of `a`)."""
        match = _VECTOR.match(a.type)
        if not match:
            raise TypeError(f"shuffle of {a.type}")
        indices = self.vector_constant(mask, "i32")
        return self.define(
            f"shufflevector {a.type} {a.name}, {b.type} {b.name}, {indices.type} {indices.name}",
            f"<{len(mask)} x {match[2]}>",
        )

    def extract(self, a: Value, index: Value | int) -> Value:
        """One element of a vector."""
        match = _VECTOR.match(a.type)
        if not match:
            raise TypeError(f"extract from {a.type}")
        i = index if isinstance(index, Value) else self.constant(index, 32)
        return self.define(f"extractelement {a.type} {a.name}, {i.type} {i.name}", match[2])

    def insert(self, a: Value, element: Value, index: Value | int) -> Value:
        """The vector `a` with one element replaced."""
        i = index if isinstance(index, Value) else self.constant(index, 32)
        return self.define(f"insertelement {a.type} {a.name}, {element.type} {element.name}, {i.type} {i.name}", a.type)

    def intrinsic(self, name: str, type_: str, arguments: Sequence[Value], suffix: str | None = None) -> Value:
        """Call `@llvm.<name>`, returning `type_`; `suffix` is its overload part where it has one (default: from
        type)."""
        suffix = _mangle(arguments[0].type) if suffix is None else suffix
        full = f"@llvm.{name}" + (f".{suffix}" if suffix else "")
        self.declarations.add(f"declare {type_} {full}({', '.join(a.type for a in arguments)})")
        return self.define(f"call {type_} {full}({', '.join(f'{a.type} {a.name}' for a in arguments)})", type_)

    def intrinsic_void(self, name: str, arguments: Sequence[Value], suffix: str) -> None:
        """Call an intrinsic without a result."""
        full = f"@llvm.{name}" + (f".{suffix}" if suffix else "")
        self.declarations.add(f"declare void {full}({', '.join(a.type for a in arguments)})")
        self.raw(f"call void {full}({', '.join(f'{a.type} {a.name}' for a in arguments)})")

    def assembly(self, text: str, constraints: str, type_: str, arguments: Sequence[Value]) -> Value | None:
        """Inline assembly (AT&T syntax) with side effects; `type_` 'void' gives None.

        A pointer argument under an indirect constraint ('*m') must be annotated by the caller through `elementtype`
        in its name; see isa/x87.
        """
        call = f'call {type_} asm sideeffect "{text}", "{constraints}"('
        call += ", ".join(f"{a.type} {a.name}" for a in arguments) + ")"
        if type_ == "void":
            self.raw(call)
            return None
        return self.define(call, type_)

    # -- memory

    def offset(self, pointer: Value, offset: Value | int) -> Value:
        """`pointer` plus `offset` bytes."""
        if isinstance(offset, int):
            if offset == 0:
                return pointer
            offset = self.constant(offset, 64)
        return self.define(f"getelementptr i8, ptr {pointer.name}, i64 {offset.name}", "ptr")

    def load_type(self, type_: str, pointer: Value, align: int = 0) -> Value:
        """Load a value of an LLVM type (naturally aligned unless `align` bytes are given)."""
        return self.define(f"load {type_}, ptr {pointer.name}" + (f", align {align}" if align else ""), type_)

    def load(self, width: int, pointer: Value, align: int = 0) -> Value:
        """Load an integer of `width` bits."""
        return self.load_type(f"i{width}", pointer, align)

    def store(self, value: Value, pointer: Value, align: int = 0) -> None:
        """Store a value."""
        tail = f", align {align}" if align else ""
        self.lines.append(f" store {value.type} {value.name}, ptr {pointer.name}{tail}")

    def pointer(self, address: Value) -> Value:
        """An i64 as a pointer."""
        return self.define(f"inttoptr i64 {address.name} to ptr", "ptr")

    def address(self, pointer: Value) -> Value:
        """A pointer as an i64."""
        return self.define(f"ptrtoint ptr {pointer.name} to i64", "i64")

    def variable(self, initial: Value | int, width: int = 64) -> Variable:
        """A mutable value, set to `initial` (of `width` bits when that is an int)."""
        variable = self.cell(initial.type if isinstance(initial, Value) else f"i{width}")
        variable.set(initial)
        return variable

    def cell(self, type_: str) -> Variable:
        """A mutable value of an LLVM type that is set later."""
        name = self._new()
        self.allocas.append(f" {name} = alloca {type_}")
        return Variable(self, Value(self, name, "ptr", 0), type_)

    # -- control flow

    def label(self, label: str) -> None:
        """Start a basic block."""
        self.lines.append(f"{label}:")
        self.current_label = label
        self.terminated = False

    def jump(self, label: str) -> None:
        """Unconditional branch."""
        self.lines.append(f" br label %{label}")
        self.terminated = True

    def branch(self, condition: Value, if_true: str, if_false: str, likely: bool | None = None) -> None:
        """Conditional branch; `likely` says which way it nearly always goes."""
        weight = "" if likely is None else f", !prof !{int(likely)}"
        self.lines.append(f" br i1 {condition.name}, label %{if_true}, label %{if_false}{weight}")
        self.terminated = True

    @contextmanager
    def when(self, condition: Value, likely: bool | None = None) -> Iterator[None]:
        """What follows, indented, happens only if `condition` holds."""
        inside, after = self.new_label("when"), self.new_label("after")
        self.branch(condition, inside, after, likely)
        self.label(inside)
        yield
        if not self.terminated:
            self.jump(after)
        self.label(after)

    @contextmanager
    def loop(self) -> Iterator[Loop]:
        """Repeat what follows, indented, until a `break_if`."""
        head, after = self.new_label("loop"), self.new_label("done")
        self.jump(head)
        self.label(head)
        yield Loop(self, head, after)
        if not self.terminated:
            self.jump(head)
        self.label(after)

    def phi(self, incoming: Sequence[tuple[Value, str]]) -> Value:
        """The value that came from whichever block was left for this one."""
        type_ = incoming[0][0].type
        return self.define(f"phi {type_} " + ", ".join(f"[{v.name}, %{block}]" for v, block in incoming), type_)

    def call(self, function: Value | str, type_: str, arguments: Sequence[Value], convention: str = "") -> Value:
        """Call a function (a pointer value, or '@name') that returns `type_`."""
        name = function if isinstance(function, str) else function.name
        text = f"call {convention} {type_} {name}({', '.join(f'{a.type} {a.name}' for a in arguments)})"
        return self.define(text, type_)

    def call_void(self, function: Value | str, arguments: Sequence[Value], convention: str = "") -> None:
        """Call a function without a result."""
        name = function if isinstance(function, str) else function.name
        self.raw(f"call {convention} void {name}({', '.join(f'{a.type} {a.name}' for a in arguments)})")

    def tail(self, function: Value, arguments: Sequence[Value]) -> None:
        """Leave this function for another of the same signature."""
        name = self._new()
        text = ", ".join(f"{a.type} {a.name}" for a in arguments)
        self.lines.append(f" {name} = musttail call {CONVENTION} i64 {function.name}({text})")
        self.lines.append(f" ret i64 {name}")
        self.terminated = True

    def ret(self, value: Value | int) -> None:
        """Return an i64."""
        name = value if isinstance(value, int) else value.name
        self.lines.append(f" ret i64 {name}")
        self.terminated = True

    def ret_void(self) -> None:
        """Return nothing."""
        self.lines.append(" ret void")
        self.terminated = True

    # -- the function

    def text(self, header: str) -> str:
        """The whole function, given its `define ...` line without the brace."""
        return "\n".join([header + " {", "entry:", *self.allocas, *self.lines, "}"])


def _mangle(type_: str) -> str:
    match = _VECTOR.match(type_)
    if match:
        return f"v{match[1]}{_mangle(match[2])}"
    return {"double": "f64", "float": "f32", "x86_fp80": "f80", "ptr": "p0"}.get(type_, type_)
