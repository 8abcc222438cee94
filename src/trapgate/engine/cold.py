"""The cold tier's contexts: semantics become handlers whose operands come out of the micro-op record at run time.

Handlers have one signature, `preserve_nonecc i64 (ptr state, ptr uop, i64 budget)`, and chain by tail calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from trapgate.arch import layout
from trapgate.arch.registers import DF, ES, RCX, RDI, RSI, SS
from trapgate.cpu.tlb import FAST_ENTRIES
from trapgate.engine import record
from trapgate.engine.operands import (
    ColdOperand,
    CountOperand,
    ImmediateOperand,
    MemoryOperand,
    RegisterOperand,
    StackRegisterOperand,
)
from trapgate.isa.context import DEFINITIONS, Context, Operand
from trapgate.isa.flags import Flags
from trapgate.isa.form import Form, parse_memory
from trapgate.isa.ir import CONVENTION, Emitter, Loop, Value

# The kind of an access: its size in bytes, and
WRITE = 0x100
READ_AND_WRITE = 0x300


class _Turn:
    """A turn of a string instruction (see Context.repeated)."""

    def __init__(self, context: ColdContext, loop: Loop | None) -> None:
        self._c, self._loop = context, loop
        self.stop: Value | None = None

    def stop_after_if(self, condition: Value) -> None:
        self.stop = condition

    def again_after(self, elements: Value) -> None:
        c = self._c
        assert self._loop is not None
        count = c.register(RCX, c.address_bits)
        c.set_register(RCX, count - elements.resize(c.address_bits))
        c.spend(elements)
        self._loop.again()


class ColdContext(Context):
    """One handler: one form, or several fused ones whose records follow each other."""

    def __init__(self, forms: Sequence[Form], name: str, declarations: set[str]) -> None:
        self.emit = Emitter(declarations)
        self.name = name
        self._forms = forms
        self.state = Value(self.emit, "%state", "ptr", 0)
        self.uop = Value(self.emit, "%uop", "ptr", 0)
        self._budget = self.emit.variable(Value(self.emit, "%budget", "i64", 64))
        self.flags = Flags(self)
        self._counted = False
        self._leave: Value | None = None
        self.form = forms[0]
        self._ends_block = False

    def generate(self) -> str:
        """The handler's LLVM assembly."""
        for i, form in enumerate(self._forms):
            if i:
                self.uop = self.emit.offset(self.uop, record.RECORD_SIZE)
            self._one(form)
        if not self.emit.terminated:
            self.flags.flush()
            following = self.emit.offset(self.uop, record.RECORD_SIZE)
            self._dispatch(following)
        header = f"define {CONVENTION} i64 @{self.name}(ptr noalias %state, ptr noalias %uop, i64 %budget) #0"
        return self.emit.text(header)

    def _one(self, form: Form) -> None:
        self.form = form
        self.condition = form.condition
        self.operand_bits, self.address_bits = form.operand_bits, form.address_bits
        self.stack_bits = int(form.stack[:2]) if form.stack else 0
        self.repeat = form.repeat
        self.bits = form.bits
        self._leave = None
        definition = DEFINITIONS[form.name]
        self._ends_block = definition.ends_block
        self.flags.dead = not form.live
        for shape in form.operands:
            if shape[0] == "m" and not self.address_bits:
                self.address_bits = parse_memory(shape).address_bits
        definition.function(self, *self._operands(form.operands))

    def _operands(self, shapes: Sequence[str]) -> list[ColdOperand]:
        operands: list[ColdOperand] = []
        slot = 0
        for shape in shapes:
            kind = shape[0]
            if kind == "m":
                memory = MemoryOperand(self, parse_memory(shape), slot)
                slot = memory.segment_slot + (1 if memory.shape.segment else 0)
                operands.append(memory)
            elif kind == "i":
                operands.append(ImmediateOperand(self, int(shape[1:]), record.IMMEDIATE, 32))
            elif kind == "I":
                operands.append(ImmediateOperand(self, 64, record.LINK, 64))
            elif kind == "j":
                operands.append(ImmediateOperand(self, int(shape[1:]), record.DISPLACEMENT, 32))
            elif shape == "cl":
                operands.append(CountOperand(self, 8))
            elif shape == "st":
                operands.append(StackRegisterOperand(self, slot))
                slot += 1
            else:
                width = {"x": 128, "q": 64}.get(shape) or int(shape[1:])
                operands.append(RegisterOperand(self, width, slot))
                slot += 1
        return operands

    # -- the record

    def of_record(self, offset: int, width: int) -> Value:
        """A field of the micro-op record."""
        return self.emit.load(width, self.emit.offset(self.uop, offset))

    def slot(self, number: int) -> Value:
        """An operand slot (64 bits wide)."""
        return self.of_record(record.SLOTS + 2 * number, 16).zext(64)

    # -- registers

    def register(self, number: int, width: int) -> Value:
        return self.field(layout.gpr(number), width)

    def set_register(self, number: int, value: Value) -> None:
        self.set_field(layout.gpr(number), value.zext(64) if value.width == 32 else value)

    # -- memory

    def linear_address(
        self, offset: Value, segment: Value | None, check: str, is_write: bool | None, size: int, stack: bool = False
    ) -> Value:
        """Segment base plus `offset`, with limit and rights checked where `check` is "s" (and is_write is not None)."""
        if segment is None or not check:
            return offset.zext(64)
        base = self.emit.load(64, self.emit.offset(segment, layout.SEGMENT_BASE))
        if check == "g":
            return base + offset.zext(64)
        wide = offset.zext(64)
        if is_write is not None:
            which = layout.SEGMENT_HIGH_WRITE if is_write else layout.SEGMENT_HIGH_READ
            high = self.emit.load(64, self.emit.offset(segment, which))
            low = self.emit.load(64, self.emit.offset(segment, layout.SEGMENT_LOW))
            outside = (wide + (size - 1)).sgt(high) | wide.slt(low)
            place_of_stack = self.state_pointer(layout.segment(SS))
            vector = self.emit.compare("eq", segment, place_of_stack).select(
                self.emit.constant(12, 64), self.emit.constant(13, 64)
            )
            with self.emit.when(outside, likely=False):
                self._fault(vector, 0)
        return (base + wide) & 0xFFFF_FFFF

    def data_table(self) -> Value:
        """The fast table of data accesses (ptr)."""
        return self.emit.load_type("ptr", self.state_pointer(layout.DTLB))

    def _entry(self, linear: Value, size: int, is_write: bool) -> tuple[Value, Value]:
        """(hit, entry of the fast table) of an access."""
        e = self.emit
        entry = e.offset(self.data_table(), (linear >> 7) & ((FAST_ENTRIES - 1) << 5))
        last = linear + (size - 1) if size > 1 else linear
        return e.load(64, e.offset(entry, 8 if is_write else 0)).eq(last & ~0xFFF), entry

    def _slow(self, linear: Value, size: int, flags: int) -> Value:
        """The slow path of an access: a host pointer; leaves the handler on a fault."""
        e = self.emit
        function = e.load_type("ptr", self.state_pointer(layout.SLOW_ACCESS))
        kind = e.constant(size | flags, 64)
        pointer = e.call(function, "ptr", [self.state, self.uop, self._budget.get(), linear, kind])
        with e.when(e.compare("eq", pointer, e.null()), likely=False):
            e.ret(record.EXIT_FAULT)
        self._budget.set(self.field(layout.EXIT_BUDGET))
        return pointer

    def host_pointer(self, linear: Value, size: int, is_write: bool) -> Value:
        """Host address of `size` bytes at a linear address, with permission to write if `is_write`.

        May be the bounce buffer: whoever writes through it must then call `commit`.
        """
        e = self.emit
        hit, entry = self._entry(linear, size, is_write)
        fast, slow, join = e.new_label("hit"), e.new_label("miss"), e.new_label("join")
        e.branch(hit, fast, slow, likely=True)
        e.label(fast)
        direct = e.pointer(e.load(64, e.offset(entry, 16)) + linear)
        e.jump(join)
        e.label(slow)
        found = self._slow(linear, size, READ_AND_WRITE if is_write else 0)
        slow_end = e.current_label
        e.jump(join)
        e.label(join)
        return e.phi([(direct, fast), (found, slow_end)])

    def load_linear(self, linear: Value, width: int) -> Value:
        """Read `width` bits at a linear address."""
        return self.emit.load(width, self.host_pointer(linear, width // 8, is_write=False), 1)

    def store_linear(self, linear: Value, value: Value) -> None:
        """Write at a linear address."""
        e = self.emit
        size = value.width // 8
        hit, entry = self._entry(linear, size, is_write=True)
        fast, slow, join = e.new_label("hit"), e.new_label("miss"), e.new_label("join")
        e.branch(hit, fast, slow, likely=True)
        e.label(slow)
        e.store(value, self._slow(linear, size, WRITE), 1)
        self.commit()
        e.jump(join)
        e.label(fast)
        e.store(value, e.pointer(e.load(64, e.offset(entry, 16)) + linear), 1)
        e.jump(join)
        e.label(join)

    def commit(self) -> None:
        """Carry what was written to the bounce buffer where it belongs."""
        function = self.emit.load_type("ptr", self.state_pointer(layout.COMMIT))
        self.emit.call_void(function, [self.state])
        self._budget.set(self.field(layout.EXIT_BUDGET))

    def _implicit_linear(self, segment: int, offset: Value, is_write: bool, size: int) -> Value:
        check = self.form.implicit
        if check == "g" and segment == ES:
            check = ""  # 64-bit mode: only FS and GS have a base
        return self.linear_address(offset, self.state_pointer(layout.segment(segment)), check, is_write, size)

    def load(self, segment: int, offset: Value, width: int) -> Value:
        return self.load_linear(self._implicit_linear(segment, offset, False, width // 8), width)

    def store(self, segment: int, offset: Value, value: Value) -> None:
        self.store_linear(self._implicit_linear(segment, offset, True, value.width // 8), value)

    def load_system(self, linear: Value, width: int) -> Value:
        return self.load_linear(linear, width)

    def string_source_segment(self) -> int:
        return self.form.segment

    def _stack_linear(self, offset: Value, is_write: bool, size: int) -> Value:
        check = "s" if self.form.stack.endswith("s") else ""
        return self.linear_address(offset, self.state_pointer(layout.segment(SS)), check, is_write, size)

    def stack_load(self, offset: Value, width: int) -> Value:
        return self.load_linear(self._stack_linear(offset, False, width // 8), width)

    def stack_store(self, offset: Value, value: Value) -> None:
        self.store_linear(self._stack_linear(offset, True, value.width // 8), value)

    def stack_probe(self, offset: Value) -> None:
        self.host_pointer(self._stack_linear(offset, True, 1), 1, is_write=True)

    def after_pop(self, operand: Operand, size: int) -> Operand:
        assert isinstance(operand, MemoryOperand)
        return operand.after_pop(size)

    # -- faults and other ways out

    def _exit(self, code: int) -> None:
        self.set_field(layout.EXIT_UOP, self.emit.address(self.uop))
        self.set_field(layout.EXIT_BUDGET, self._budget.get())
        self.emit.ret(code)

    def _fault(self, vector: Value | int, error: int | None) -> None:
        e = self.emit
        self.set_field(layout.FAULT_VECTOR, vector if isinstance(vector, Value) else e.constant(vector, 64))
        self.set_field(layout.FAULT_ERROR, e.constant(-1 if error is None else error, 64))
        self._exit(record.EXIT_FAULT)

    def fault_if(self, condition: Value, vector: int, error: int | None = None) -> None:
        with self.emit.when(condition, likely=False):
            self._fault(vector, error)

    def plain_python_if(self, condition: Value) -> None:
        with self.emit.when(condition, likely=False):
            self._exit(record.EXIT_PYTHON_INSIDE)

    # -- leaving the block

    def _dispatch(self, uop: Value) -> None:
        handler = self.emit.load_type("ptr", uop)
        self.emit.tail(handler, [self.state, uop, self._budget.get()])

    def _count(self) -> None:
        if not self._counted:
            self._budget.set(self._budget.get() - self.of_record(record.COST, 64))
            self._counted = True

    def _take(self, uop: Value) -> None:
        """Go to a record unless the budget is used up."""
        with self.emit.when(self._budget.get().slt(0), likely=False):
            self.set_field(layout.EXIT_UOP, self.emit.address(uop))
            self.set_field(layout.EXIT_BUDGET, self._budget.get())
            self.emit.ret(record.EXIT_BUDGET)
        self._dispatch(uop)

    def _end(self) -> None:
        self._count()
        self.flags.flush()

    def branch_if(self, condition: Value) -> None:
        self._end()
        e = self.emit
        taken, other = e.new_label("taken"), e.new_label("other")
        e.branch(condition, taken, other)
        e.label(taken)
        self._take(e.load_type("ptr", e.offset(self.uop, record.LINK)))
        e.label(other)
        self._take(e.load_type("ptr", e.offset(self.uop, record.NEXT_LINK)))

    def goto_target(self) -> None:
        self._end()
        self._take(self.emit.load_type("ptr", self.emit.offset(self.uop, record.LINK)))

    def goto_next(self) -> None:
        self._end()
        if self._leave is not None:
            with self.emit.when(self._leave, likely=False):
                self._exit(record.EXIT_WINDOW)
        self._take(self.emit.load_type("ptr", self.emit.offset(self.uop, record.NEXT_LINK)))

    def goto_address(self, rip: Value) -> None:
        self._end()
        e = self.emit
        if self._leave is not None:
            with e.when(self._leave, likely=False):
                self.set_field(layout.RIP, rip)
                self._exit(record.EXIT_LOOKUP)
        entry = self._jump_cache_entry(rip)
        with e.when(e.load(64, entry).ne(rip), likely=False):
            self.set_field(layout.RIP, rip)
            look_up = e.load_type("ptr", self.state_pointer(layout.LOOKUP))
            e.tail(look_up, [self.state, self.uop, self._budget.get()])
        self._take(e.load_type("ptr", e.offset(entry, 8)))

    def _jump_cache_entry(self, rip: Value) -> Value:
        """Pointer to where the jump cache has a rip, if it has it."""
        cache = self.emit.load_type("ptr", self.state_pointer(layout.JUMP_CACHE))
        return self.emit.offset(cache, layout.jump_cache_offset(rip))

    def next_ip(self) -> Value:
        return self.of_record(record.NEXT_IP, 64)

    def time_stamp(self) -> Value:
        self._count()
        return self.field(layout.TSC_AT_ZERO) - self._budget.get().sar(32)

    def leave_if(self, condition: Value) -> None:
        self._leave = condition

    # -- string instructions

    def spend(self, cycles: Value) -> None:
        """Take modelled cycles (64 bits) from the budget."""
        self._budget.set(self._budget.get() - (cycles << 32))

    @contextmanager
    def repeated(self) -> Iterator[_Turn]:
        if not self.repeat:
            yield _Turn(self, None)
            return
        e = self.emit
        with e.loop() as loop:
            turn = _Turn(self, loop)
            count = self.register(RCX, self.address_bits)
            loop.break_if(count.eq(0))
            with e.when(self._budget.get().slt(0), likely=False):
                self._exit(record.EXIT_REPEAT)
            yield turn
            self.set_register(RCX, count - 1)
            self.spend(e.constant(1, 64))
            if turn.stop is not None:
                loop.break_if(turn.stop)

    def string_run(self, fill: Value | None) -> Value:
        e, size = self.emit, self.operand_bits // 8
        if self.form.implicit == "s":
            return e.constant(0, 64)
        zero = e.constant(0, 64)
        up = (self.field(layout.SYSTEM_FLAGS) & DF).eq(0)
        # As many turns as the budget lets happen one by one, so that the run is left at the same turn.
        elements = _smaller(self.register(RCX, self.address_bits).zext(64), self._budget.get().sar(32) + 1)

        def place(segment: int, number: int, is_write: bool) -> tuple[Value, Value]:
            nonlocal elements, up
            linear = self._implicit_linear(segment, self.register(number, self.address_bits), is_write, size)
            hit, entry = self._entry(linear, size, is_write)
            elements = _smaller(elements, (e.constant(4096, 64) - (linear & 0xFFF)) >> size.bit_length() - 1)
            up = up & hit
            return linear, entry

        to, to_entry = place(ES, RDI, True)
        source, source_entry = place(self.form.segment, RSI, False) if fill is None else (to, to_entry)
        elements = (up & elements.sgt(1)).select(elements, zero)
        with e.when(elements.ne(0)):
            to_host = e.pointer(e.load(64, e.offset(to_entry, 16)) + to)
            from_host = e.pointer(e.load(64, e.offset(source_entry, 16)) + source)
            end = elements << size.bit_length() - 1
            at_once, done = e.new_label("bulk"), e.new_label("stored")
            if fill is None:
                # Not where the destination begins inside the source: then each element is copied on and on.
                distance = e.address(to_host) - e.address(from_host)
                simple = distance.uge(end)
            else:
                byte = fill.trunc(8)
                simple = fill.eq(byte.zext(fill.width) * (((1 << fill.width) - 1) // 0xFF))
            one_by_one = e.new_label("elements")
            e.branch(simple, at_once, one_by_one, likely=True)
            e.label(at_once)
            no = e.constant(0, 1)
            if fill is None:
                e.intrinsic_void("memmove", [to_host, from_host, end, no], "p0.p0.i64")
            else:
                e.intrinsic_void("memset", [to_host, byte, end, no], "p0.i64")
            e.jump(done)
            e.label(one_by_one)
            i = e.variable(0)
            with e.loop() as loop:
                value = e.load(8 * size, e.offset(from_host, i.get()), 1) if fill is None else fill
                e.store(value, e.offset(to_host, i.get()), 1)
                i.set(i.get() + size)
                loop.break_if(i.get().eq(end))
            e.jump(done)
            e.label(done)
        return elements


def _smaller(a: Value, b: Value) -> Value:
    return a.ult(b).select(a, b)
