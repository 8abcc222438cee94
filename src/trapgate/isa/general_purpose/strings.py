"""String instructions: MOVS, STOS, LODS, CMPS, SCAS with REP (APM vol. 3, 1.2.6 and chapter 3)."""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.registers import DF, ES, RAX, RDI, RSI
from trapgate.isa.context import Context, RepeatLoop, semantics
from trapgate.isa.ir import Value


def _step(c: Context) -> Value:
    """What an index register changes by: the element size in bytes, negative where DF is set."""
    size = c.operand_bits // 8
    down = (c.field(layout.SYSTEM_FLAGS) & DF).ne(0)
    return down.select(c.emit.constant(-size, c.address_bits), c.emit.constant(size, c.address_bits))


def _advance(c: Context, number: int, step: Value) -> None:
    c.set_register(number, c.register(number, c.address_bits) + step)


def _advance_run(c: Context, numbers: tuple[int, ...], turn: RepeatLoop, done: Value) -> None:
    """After a run of elements upwards."""
    amount = (done * (c.operand_bits // 8)).resize(c.address_bits)
    for number in numbers:
        _advance(c, number, amount)
    turn.again_after(done)


@semantics("movsb", "movsw", "movsd_string", "movsq")
def movs(c: Context) -> None:
    step = _step(c)
    with c.repeated() as turn:
        if c.repeat:
            done = c.string_run(None)
            with c.emit.when(done.ne(0)):
                _advance_run(c, (RSI, RDI), turn, done)
        value = c.load(c.string_source_segment(), c.register(RSI, c.address_bits), c.operand_bits)
        c.store(ES, c.register(RDI, c.address_bits), value)
        _advance(c, RSI, step)
        _advance(c, RDI, step)


@semantics("stosb", "stosw", "stosd", "stosq")
def stos(c: Context) -> None:
    step = _step(c)
    value = c.register(RAX, c.operand_bits)
    with c.repeated() as turn:
        if c.repeat:
            done = c.string_run(value)
            with c.emit.when(done.ne(0)):
                _advance_run(c, (RDI,), turn, done)
        c.store(ES, c.register(RDI, c.address_bits), value)
        _advance(c, RDI, step)


@semantics("lodsb", "lodsw", "lodsd", "lodsq")
def lods(c: Context) -> None:
    step = _step(c)
    with c.repeated():
        value = c.load(c.string_source_segment(), c.register(RSI, c.address_bits), c.operand_bits)
        c.set_register(RAX, value)
        _advance(c, RSI, step)


def _compare_turns(c: Context, scan: bool) -> None:
    step = _step(c)
    with c.repeated() as turn:
        if scan:
            a = c.register(RAX, c.operand_bits)
        else:
            a = c.load(c.string_source_segment(), c.register(RSI, c.address_bits), c.operand_bits)
        b = c.load(ES, c.register(RDI, c.address_bits), c.operand_bits)
        if not scan:
            _advance(c, RSI, step)
        _advance(c, RDI, step)
        c.flags.set_sub(a, b, a - b)
        if c.repeat:
            # Each turn's flags are stored: the instruction can be left between turns.
            c.flags.flush()
            c.flags.stored()
            turn.stop_after_if(a.ne(b) if c.repeat == "rep" else a.eq(b))


@semantics("cmpsb", "cmpsw", "cmpsd_string", "cmpsq")
def cmps(c: Context) -> None:
    _compare_turns(c, scan=False)


@semantics("scasb", "scasw", "scasd", "scasq")
def scas(c: Context) -> None:
    _compare_turns(c, scan=True)
