"""SMI and RSM (APM vol. 2, 10.2 and 10.3), INIT (14.1.3), FERR# and IRQ 13 (3.1.1)."""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.cpuid import PROFILES
from trapgate.arch.registers import CR0_CD, CR0_NE, CR0_PG, CS, GPR_NAMES, IF
from trapgate.arch.vectors import UD
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.devices.numeric_error import NumericError
from trapgate.engine.handlers import HandlerStore
from trapgate.machine.console import NullConsole

from .bench import CODE, DATA, Bench

SMBASE = 0x3_0000
AREA = SMBASE + 0xFE00
RSM = "0faa"
#: Offsets in the save area, APM vol. 2, table 10-1.
RAX, RIP, RFLAGS, CR0, CR3, EFER, BASE, HALT, CS_PLACE = (
    0x1F8, 0x178, 0x170, 0x158, 0x150, 0xD0, 0x100, 0xC9, 0x10,
)  # fmt: skip


def _state(bench: Bench) -> dict[str, object]:
    p = bench.processor
    return {
        "registers": [p.register(i, 64) for i in range(16)],
        "rflags": p.rflags, "rip": p.rip, "cpl": p.cpl, "cr": (p.cr0, p.cr3, p.cr4, p.efer),
        "segments": [(s.selector, s.base, s.limit, s.attributes) for s in p.segments],
        "tables": (p.gdtr_base, p.gdtr_limit, p.idtr_base, p.idtr_limit, p.ldtr.base, p.tr.selector, p.tr.limit),
        "dr": list(p.dr),
    }  # fmt: skip


def _step(bench: Bench) -> None:
    """The pins, then one instruction."""
    bench.processor.step()


def test_smi_saves_and_rsm_restores(bench: Bench) -> None:
    for prepare, cpl in ((bench.prepare32, 0), (bench.prepare64, 0), (bench.prepare64, 3)):
        prepare(cpl)
        p = bench.processor
        bench.set(**{name: 0x1111 * (i + 1) for i, name in enumerate(GPR_NAMES)}, rflags=0x246)
        p.idtr_base, p.gdtr_base = 0x1234, 0x5678
        bench.memory.write(CODE, b"\x90" * 8)
        p.rip = CODE
        before = _state(bench)
        bench.memory.write(SMBASE + 0x8000, bytes.fromhex("40" + RSM))  # inc ax
        p.pulse_smi()
        _step(bench)
        assert p.in_smm
        assert (p.bits, p.cpl, p.cr0 & CR0_PG, p.segments[CS].base) == (16, 0, 0, SMBASE)
        assert p.rip == 0x8001
        read = bench.memory.read_u64
        assert (read(AREA + RAX), read(AREA + RIP), read(AREA + RFLAGS)) == (0x1111, CODE, 0x246)
        assert (read(AREA + CR0), read(AREA + CR3), read(AREA + EFER)) == before["cr"][:2] + before["cr"][3:]  # type: ignore[index]
        assert bench.memory.read_u16(AREA + CS_PLACE) == 8 | cpl
        assert bench.memory.read_u32(AREA + 0xFC) == 0x0003_0064
        _step(bench)
        assert not p.in_smm
        assert _state(bench) == before
        # The code goes on in its own mode.
        _step(bench)
        assert p.rip == CODE + 1


def test_rsm_takes_what_the_handler_wrote(bench: Bench) -> None:
    bench.prepare64()
    p = bench.processor
    p.rip = CODE
    bench.memory.write(CODE, b"\x90" * 8)
    bench.memory.write(SMBASE + 0x8000, bytes.fromhex("90" + RSM))
    p.pulse_smi()
    _step(bench)
    bench.memory.write_u64(AREA + RAX, 0x77)
    bench.memory.write_u64(AREA + RIP, CODE + 4)
    bench.memory.write_u32(AREA + BASE, 0x5_0000)
    _step(bench)
    assert (p.register(0, 64), p.rip, p.smbase) == (0x77, CODE + 4, 0x5_0000)
    bench.memory.write(0x5_8000, bytes.fromhex("90" + RSM))
    p.pulse_smi()
    _step(bench)
    assert p.segments[CS].base == 0x5_0000


def test_smi_during_smm_waits_for_rsm(bench: Bench) -> None:
    bench.prepare32()
    p = bench.processor
    p.rip = CODE
    bench.memory.write(CODE, b"\x90" * 8)
    bench.memory.write(SMBASE + 0x8000, bytes.fromhex("9090" + RSM))
    p.pulse_smi()
    _step(bench)
    p.pulse_smi()
    _step(bench)
    assert p.in_smm
    assert p.rip == 0x8002
    _step(bench)
    assert not p.in_smm
    _step(bench)
    assert p.in_smm
    assert p.rip == 0x8001


def test_halted_processor_halts_again(bench: Bench) -> None:
    bench.prepare32()
    assert bench.run("90") is None
    p = bench.processor
    assert p.halted
    bench.memory.write(SMBASE + 0x8000, bytes.fromhex("90" + RSM))
    p.pulse_smi()
    assert p.run(max_instructions=10).reason == "halted"
    assert bench.memory.read_u8(AREA + HALT) == 1
    assert (p.rip, p.in_smm) == (CODE + 2, False)


def test_rsm_outside_smm(bench: Bench) -> None:
    got = bench.prepare32().run(RSM)
    assert got is not None
    assert got.vector == UD


def test_rsm_to_an_impossible_state_shuts_down(bench: Bench) -> None:
    bench.prepare32()
    p = bench.processor
    p.rip = CODE
    bench.memory.write(SMBASE + 0x8000, bytes.fromhex("90" + RSM))
    p.pulse_smi()
    _step(bench)
    bench.memory.write_u64(AREA + CR0, 1 << 32)  # PG without PE would be AMD-V's paged real mode
    assert p.run(max_instructions=5).reason == "triple-fault"


def test_init_keeps_what_reset_does_not(bench: Bench) -> None:
    bench.prepare32()
    p = bench.processor
    p.write_msr(0x2FF, 0xC06)
    p.set_state_bytes(layout.xmm(3), b"0123456789abcdef")
    p.state.set(layout.CR0, p.cr0 | CR0_CD)
    bench.set(rbx=5)
    p.request_reset()
    assert p.run(max_instructions=1).reason == "unimplemented"  # no firmware at the reset vector
    assert (p.rip, p.segments[CS].selector, p.segments[CS].base) == (0xFFF0, 0xF000, 0xFFFF_0000)
    assert (p.real_mode, bench.get("rbx"), bool(p.cr0 & CR0_CD)) == (True, 0, True)
    assert p.read_msr(0x2FF) == 0xC06
    assert bytes(p.state.bytes[layout.xmm(3) : layout.xmm(3) + 16]) == b"0123456789abcdef"


def test_numeric_error_latch() -> None:
    levels: list[bool] = []
    ignored: list[bool] = []
    device = NumericError(levels.append)
    device.set_ignne = ignored.append
    device.set_ferr(True)
    device.set_ferr(True)
    device.set_ferr(False)
    assert levels == [True]
    assert device.read_port(0, 1) == 0xFF
    device.write_port(1, 1, 0)
    assert levels == [True]
    device.write_port(0, 1, 0)
    assert (levels, ignored) == ([True, False], [True])
    device.set_ferr(True)
    copy = NumericError(levels.append)
    copy.restore(device.snapshot())
    assert levels[-1] is True
    device.reset()
    assert levels[-1] is False


def test_irq_13_in_real_mode(handlers: HandlerStore) -> None:
    """As DOS programs see it: the handler of a division by zero clears port F0h and the unit, the program goes on."""
    machine = BareMachine(MachineConfig(memory_size=16 << 20, profile=PROFILES["486"]), NullConsole(), handlers)
    p, memory = machine.processor, machine.memory
    p.reset()
    for segment in p.segments:
        segment.load(0, 0, 0xFFFF, segment.attributes)
    assert not p.cr0 & CR0_NE
    machine.board.pic.master.write_port(1, 1, 0xFB)  # the cascade
    machine.board.pic.slave.write_port(1, 1, 0xDF)  # IRQ 13
    memory.write_u32(4 * 0x75, 0x2000)
    # inc bx; out 0F0h, al; fnclex; mov al, 20h; out 0A0h, al; out 20h, al; iret
    memory.write(0x2000, bytes.fromhex("43e6f0dbe2b020e6a0e620cf"))
    memory.write_u16(DATA, 0x037B)  # ZM clear
    # fninit; fldcw [8000h]; fld1; fldz; fdivp; fwait; inc cx; cli; hlt
    memory.write(CODE, bytes.fromhex("dbe3d92e0080d9e8d9eedef99b41faf4"))
    p.rip, p.cpl = CODE, 0
    p.set_register(4, 16, 0x7000)
    p.set_register(1, 64, 0)
    p.set_register(3, 64, 0)
    p.rflags = 2 | IF
    p.mode_changed()
    p.run(max_instructions=200)
    assert (p.register(3, 16), p.register(1, 16)) == (1, 1)
    assert p.interrupt_counts.get(0x75) == 1
    assert p.rip == CODE + 16
    assert not p.state.w[layout.FPU_STATUS >> 1] & 0x80
