"""The hot tier's context: a region as one function, with the guest's registers and flags in SSA values.

A region is entered at the first record of a block, whose handler it replaces, and left by going to a record: at the end
of a block, or before an instruction whose access the fast table does not serve, that would raise an exception, or that
has a rare case. The cold tier then carries that instruction out. So a region calls nothing, and everything is counted
where the cold tier counts it.

Addresses of records are not part of the code: they stand in the region's table, whose address is in the last field of
the header before each record where the region can be entered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from trapgate.arch import layout
from trapgate.cpu.tlb import FAST_ENTRIES
from trapgate.engine import record
from trapgate.engine.block import Block
from trapgate.engine.cold import ColdContext
from trapgate.engine.handler_keys import liveness
from trapgate.engine.hot.flags import RegionFlags, Snapshot
from trapgate.engine.hot.operands import operands_of
from trapgate.engine.hot.provenance import Access, Key, Known, Origin, Plan, TracingEmitter
from trapgate.engine.hot.shape import Edge, Shape, needs_flags, supported
from trapgate.isa.context import DEFINITIONS
from trapgate.isa.decoded import Decoded
from trapgate.isa.form import parse_memory
from trapgate.isa.ir import CONVENTION, Value, Variable

#: Where the address of a region's table stands, seen from the record where it is entered.
TABLE = 24 - record.RECORD_SIZE
#: Go on at the record, instead of leaving native code with an exit code.
_GO_ON = -1
_FLAG_FIELDS = (layout.FLAG_ZERO, layout.FLAG_SIGN, layout.FLAG_CARRY)


class _Facts(NamedTuple):
    """What is known at the end of a block."""

    flags: Snapshot
    origins: dict[int, Origin]
    known: dict[Key, list[Known]]


class RegionContext(ColdContext):
    """One region."""

    emit: TracingEmitter
    flags: RegionFlags

    def __init__(self, shape: Shape, name: str, declarations: set[str], original: Mapping[Block, int]) -> None:
        """`original`: the handler of the first record of each block where a region was entered before, or is."""
        e = self.emit = TracingEmitter(declarations)
        self.name = name
        self._shape = shape
        self.state = Value(e, "%state", "ptr", 0)
        self._registers: dict[int, Variable] = {}
        self._vectors: dict[int, Variable] = {}
        self._written: dict[int, None] = {}
        self._budget = e.cell("i64")
        self._data_table = e.cell("ptr")
        self._code_table = e.cell("ptr")
        self._table = e.cell("ptr")
        self._to, self._handler, self._code = e.cell("ptr"), e.cell("ptr"), e.cell("i64")
        self.flags = RegionFlags(self)
        self._places: dict[int, int] = {}
        self._labels = {block: f"block{i}" for i, block in enumerate(shape.blocks)}
        self._original = original
        self._handed_over: dict[Block, _Facts] = {}
        self._done: set[Block] = set()
        self._block = shape.blocks[0]
        self._index = 0
        self._rip = 0
        self._leave: Value | None = None
        self._counted = False
        self._at_start: Snapshot = self.flags.snapshot()
        #: Origins of the registers' values, and what has been looked up, here.
        self._origins: dict[int, Origin] = {}
        self._known: dict[Key, list[Known]] = {}
        self._names = 0
        self._plan = Plan([])
        #: While a block is only tried, to see what it accesses.
        self._trying: list[Access] | None = None

    @property
    def table(self) -> list[int]:
        """What the region's table must hold: addresses of records, of handlers, and of pages."""
        return list(self._places)

    def generate(self) -> str:
        """The region's LLVM assembly."""
        e = self.emit
        self._count_ways()
        for block in self._shape.blocks:
            self._one_block(block)
        self._leaving()
        body, e.lines = e.lines, []
        self._entering()
        e.lines += body
        return e.text(f"define {CONVENTION} i64 @{self.name}(ptr noalias %state, ptr noalias %uop, i64 %budget) #0")

    # -- in and out

    def _entering(self) -> None:
        e = self.emit
        uop = Value(e, "%uop", "ptr", 0)
        self._table.set(e.load_type("ptr", e.offset(uop, TABLE)))
        self._budget.set(Value(e, "%budget", "i64", 64))
        self._data_table.set(e.load_type("ptr", self.state_pointer(layout.DTLB)))
        self._code_table.set(e.load_type("ptr", self.state_pointer(layout.ITLB)))
        for number, cell in self._registers.items():
            cell.set(e.load(64, self.state_pointer(layout.gpr(number))))
        for offset, cell in self._vectors.items():
            cell.set(e.load_type("<2 x i64>", self.state_pointer(offset), 16))
        self.flags.load(*(e.load(64, self.state_pointer(offset)) for offset in _FLAG_FIELDS))
        address = e.address(uop)
        *others, last = self._shape.entries
        for block in others:
            following = e.new_label("entry")
            e.branch(address.eq(self._from_table(block.first)), self._labels[block], following)
            e.label(following)
        e.jump(self._labels[last])

    def _leaving(self) -> None:
        e = self.emit
        e.label("leave")
        for offset in self._written:
            place = self.state_pointer(offset)
            if offset in self._vectors:
                e.store(self._vectors[offset].get(), place, 16)
            else:
                e.store(self._registers[(offset - layout.GPR) // 8].get(), place)
        if self.flags.changed:
            self.flags.stored()
            for offset, word in zip(_FLAG_FIELDS, self.flags.words(), strict=True):
                e.store(word, self.state_pointer(offset))
        budget, uop, code = self._budget.get(), self._to.get(), self._code.get()
        with e.when(code.ne(_GO_ON)):
            e.store(uop, self.state_pointer(layout.EXIT_UOP))
            e.store(budget, self.state_pointer(layout.EXIT_BUDGET))
            e.ret(code)
        e.tail(self._handler.get(), [self.state, uop, budget])

    def _from_table(self, value: int, type_: str = "i64") -> Value:
        """A value that is not part of the code, from the region's table."""
        index = self._places.setdefault(value, len(self._places))
        return self.emit.load_type(type_, self.emit.offset(self._table.get(), 8 * index))

    def _record(self, address: int) -> Value:
        """Pointer to a record."""
        return self._from_table(address, "ptr")

    def _leave_to(self, uop: Value, handler: Value | None = None, code: Value | int = _GO_ON) -> None:
        """Leave the region. `handler` is called there, the record's own by default."""
        self.flags.flush()
        self._to.set(uop)
        self._handler.set(self.emit.load_type("ptr", uop) if handler is None else handler)
        self._code.set(code)
        self.emit.jump("leave")

    def _leave_here(self) -> None:
        """Leave the current instruction to the cold tier, from its start."""
        now = self.flags.snapshot()
        self.flags.restore(self._at_start)
        address = self._block.first + self._index * record.RECORD_SIZE
        original = self._original.get(self._block) if self._index == 0 else None
        self._leave_to(self._record(address), None if original is None else self._record(original))
        self.flags.restore(now)

    # -- blocks

    def _count_ways(self) -> None:
        """Find the blocks that are reached from one place only: they go on with its flags as they are."""
        ways = dict.fromkeys(self._shape.blocks, 0)
        for edge in self._shape.edges.values():
            ways[edge.to] += 1
        for targets in self._shape.indirect.values():
            for block in targets:
                ways[block] += 2
        for block in self._shape.entries:
            ways[block] += 2
        self._single = {block for block, n in ways.items() if n == 1}

    def _one_block(self, block: Block) -> None:
        e = self.emit
        self._block = block
        self._done.add(block)
        known = supported(block)
        live = liveness(block.decoded)
        self._plan = self._try(block, known, live)
        e.label(self._labels[block])
        self._begin(block)
        for i, d in enumerate(block.decoded[:known]):
            self._one_instruction(i, d, live[i])
        self._index = known
        self._at_start = self.flags.snapshot()
        if known < len(block.decoded):
            self._leave_here()
        elif not e.terminated:
            self.goto_next()

    def _begin(self, block: Block) -> None:
        """What is known where a block begins."""
        self._counted, self._leave = False, None
        self._rip = block.rip
        inherited = self._handed_over.get(block)
        if inherited is None:
            self.flags.stored()
            self._origins, self._known = {}, {}
        else:
            self.flags.restore(inherited.flags)
            self._origins = dict(inherited.origins)
            self._known = {key: list(known) for key, known in inherited.known.items()}

    def _try(self, block: Block, known: int, live: list[bool]) -> Plan:
        """Generate a block's instructions and throw them away, to see what it accesses."""
        e = self.emit
        lines, names = len(e.lines), self._names
        written, changed = dict(self._written), self.flags.changed
        self._begin(block)
        self._trying = []
        e.label("trying")
        for i, d in enumerate(block.decoded[:known]):
            if d.ends_block and d.name not in ("call", "call_indirect", "ret"):
                break
            self._one_instruction(i, d, live[i])
        plan = Plan(self._trying)
        self._trying = None
        del e.lines[lines:]
        self._names, self._written, self.flags.changed = names, written, changed
        return plan

    def _one_instruction(self, index: int, d: Decoded, live: bool) -> None:
        form = d.form
        assert form is not None
        self._index, self.form = index, form
        self._at_start = self.flags.snapshot()
        self.condition = form.condition
        self.operand_bits, self.address_bits = form.operand_bits, form.address_bits
        self.stack_bits = int(form.stack[:2]) if form.stack else 0
        self.repeat, self.bits = form.repeat, form.bits
        self.flags.dead = not live
        for shape in form.operands:
            if shape[0] == "m" and not self.address_bits:
                self.address_bits = parse_memory(shape).address_bits
        operands = operands_of(self, d, self._rip)
        self._rip += d.length
        DEFINITIONS[d.name].function(self, *operands)

    # -- registers

    def register(self, number: int, width: int) -> Value:
        value = self._cell(number).get()
        self.emit.origins[value.name] = self._origins.get(number) or self._new_origin(number)
        return value.trunc(width)

    def set_register(self, number: int, value: Value) -> None:
        cell = self._cell(number)
        if value.width < 32:
            mask = (1 << value.width) - 1
            # Opaque, so that LLVM does not make it a write of a part of a host's register: where it joins registers,
            # LLVM 22 loses count of values that are written in parts (an assertion in RegisterCoalescer.cpp,
            # "Instruction is reading nonexistent value", which ends the process).
            part = self.emit.define(f'call i64 asm "", "=r,0"(i64 {value.zext(64).name})', "i64")
            value = (cell.get() & ~mask) | part
        value = value.zext(64)
        cell.set(value)
        origin = self.emit.origins.get(value.name)
        if origin is None or self.emit.depth:
            self._new_origin(number)
        else:
            self._origins[number] = origin
        self._written[layout.gpr(number)] = None

    def _new_origin(self, number: int) -> Origin:
        self._names += 1
        origin = self._origins[number] = Origin((self._names,), 0)
        return origin

    def field(self, offset: int, width: int = 64) -> Value:
        assert offset not in _FLAG_FIELDS, "the flags are in the region's own values"
        return super().field(offset, width)

    def _cell(self, number: int) -> Variable:
        cell = self._registers.get(number)
        if cell is None:
            cell = self._registers[number] = self.emit.cell("i64")
        return cell

    def vector(self, offset: int) -> Value:
        """The XMM register at `offset` in the state block, as two 64-bit lanes."""
        cell = self._vectors.get(offset)
        if cell is None:
            cell = self._vectors[offset] = self.emit.cell("<2 x i64>")
        return cell.get()

    def set_vector(self, offset: int, value: Value) -> None:
        """Replace it."""
        cell = self._vectors.get(offset)
        if cell is None:
            cell = self._vectors[offset] = self.emit.cell("<2 x i64>")
        cell.set(value)
        self._written[offset] = None

    # -- memory

    def data_table(self) -> Value:
        return self._data_table.get()

    def host_pointer(self, linear: Value, size: int, is_write: bool) -> Value:
        e = self.emit
        origin = self._origin(linear)
        if origin is None:
            return e.pointer(self._look_up(linear, size, is_write) + linear)
        access = Access(origin, size, is_write)
        if self._trying is not None:
            self._trying.append(access)
        for known in self._known.get(origin.key, ()):
            if known.holds(access):
                return e.pointer(known.to_host + linear)
        span = self._plan.span(access)
        low = linear + (span.low - origin.displacement) if span.low != origin.displacement else linear
        found = Known(span, self._look_up(low, span.high - span.low, span.is_write))
        if not e.depth:
            self._known.setdefault(origin.key, []).append(found)
        return e.pointer(found.to_host + linear)

    def _origin(self, linear: Value) -> Origin | None:
        """The origin of an address; of a constant one, its page."""
        if linear.name[0] == "%":
            return self.emit.origins.get(linear.name)
        address = int(linear.name)
        return Origin(("page", address & ~0xFFF), address & 0xFFF)

    def _look_up(self, linear: Value, size: int, is_write: bool) -> Value:
        """What to add to linear addresses on the page of an access (i64)."""
        e = self.emit
        hit, entry = self._entry(linear, size, is_write)
        with e.when(hit ^ 1, likely=False):
            self._leave_here()
        return e.load(64, e.offset(entry, 16))

    def store_linear(self, linear: Value, value: Value) -> None:
        self.emit.store(value, self.host_pointer(linear, value.width // 8, is_write=True), 1)

    def commit(self) -> None:
        """Nothing: a region's writes go where they belong."""

    def _fault(self, vector: Value | int, error: int | None) -> None:
        self._leave_here()

    def _exit(self, code: int) -> None:
        self._leave_here()

    # -- the end of a block

    def _count(self) -> None:
        if not self._counted:
            left = self._budget.get() - self._block.cost
            # Opaque, so that several blocks' costs are not added up, which would keep several budgets alive.
            opaque = self.emit.define(f'call i64 asm "", "=r,0"(i64 {left.name})', "i64")
            self._budget.set(opaque)
            self._counted = True

    def next_ip(self) -> Value:
        return self.emit.constant(self._block.next_rip, 64)

    def branch_if(self, condition: Value) -> None:
        self._count()
        e = self.emit
        taken, other = e.new_label("taken"), e.new_label("other")
        e.branch(condition, taken, other)
        e.label(taken)
        self._go(True)
        e.label(other)
        self._go(False)

    def goto_target(self) -> None:
        self._count()
        self._go(True)

    def goto_next(self) -> None:
        self._count()
        if self._leave is not None:
            with self.emit.when(self._leave, likely=False):
                self._leave_to(self._record(self._block.end), code=record.EXIT_WINDOW)
        self._go(False)

    def _link(self, is_target: bool) -> Value:
        """The record that the block's link leads to."""
        e = self.emit
        field = record.LINK if is_target else record.NEXT_LINK
        return e.load_type("ptr", e.offset(self._record(self._block.end), field))

    def _go(self, is_target: bool) -> None:
        e = self.emit
        edge = self._shape.edges.get((self._block, is_target))
        spent = self._budget.get().slt(0)
        if edge is None:
            uop = self._link(is_target)
            self._leave_with(uop, spent)
            return
        with e.when(spent, likely=False):
            self._leave_to(self._link(is_target), code=record.EXIT_BUDGET)
        self._enter(edge, partial(self._link, is_target))

    def _leave_with(self, uop: Value, spent: Value) -> None:
        """Leave for a record, or with the budget used up."""
        e = self.emit
        self._leave_to(uop, code=spent.select(e.constant(record.EXIT_BUDGET, 64), e.constant(_GO_ON, 64)))

    def _enter(self, edge: Edge, record_of: Callable[[], Value]) -> None:
        """Go to a block of the region, behind its page check if that is due."""
        e, to = self.emit, edge.to
        if edge.checked:
            mode = to.translation.mode
            page = (mode.code_base + to.rip & mode.linear_mask) & ~0xFFF
            entry = e.offset(self._code_table.get(), (page >> 7) & ((FAST_ENTRIES - 1) << 5))
            same = e.load(64, entry).eq(page) & e.load(64, e.offset(entry, 16)).eq(self._from_table(to.page))
            with e.when(same ^ 1, likely=False):
                self._leave_to(record_of())
        if to in self._single and to not in self._done:
            self._handed_over[to] = _Facts(self.flags.snapshot(), self._origins, self._known)
        elif needs_flags(to):
            self.flags.flush()
        e.jump(self._labels[to])

    def goto_address(self, rip: Value) -> None:
        self._count()
        e = self.emit
        spent = self._budget.get().slt(0)
        for to in self._shape.indirect.get(self._block, ()):
            with e.when(rip.eq(to.rip)):
                with e.when(spent, likely=False):
                    self._leave_to(self._record(to.address), code=record.EXIT_BUDGET)
                self._enter(Edge(to, True), partial(self._record, to.address))
        entry = self._jump_cache_entry(rip)
        with e.when(e.load(64, entry).ne(rip), likely=False):
            self.set_field(layout.RIP, rip)
            look_up = e.load_type("ptr", self.state_pointer(layout.LOOKUP))
            self._leave_to(self._record(self._block.end), look_up)
        self._leave_with(e.load_type("ptr", e.offset(entry, 8)), spent)
