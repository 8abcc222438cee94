"""Every x87 encoding against the host's own unit: stack faults, unmasked exceptions, roundings, NaNs, images."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import iced_x86
import pytest

from oracle import areas, compare, values
from oracle.areas import Case, State
from oracle.native import NativeProcessor
from oracle.values import Choices
from trapgate.arch.registers import CR0_NE, CR0_PE

from .x87_runner import PAGE_FAULT, PLAIN_PYTHON, POINTER_FIELDS, Runner

_RDI = 7
_OPERAND, _IMAGE = 256, 512  # offsets in the window
_TRIALS = 24


def _instructions() -> Iterator[bytes]:
    """D8 to DF with every register operand and with [rdi], the images of both sizes, and FWAIT.

    Saved images go to [rdi + 256], apart from other operands: their pointers and opcode are not compared.
    """
    yield b"\x9b"
    for opcode in range(0xD8, 0xE0):
        for modrm in (*(reg << 3 | _RDI for reg in range(8)), *range(0xC0, 0x100)):
            for prefix in (b"", b"\x66"):
                code = prefix + bytes([opcode, modrm])
                decoded = iced_x86.Decoder(64, code).decode()
                if decoded.code == iced_x86.Code.INVALID:
                    continue
                if prefix and _size(decoded) not in (14, 94):
                    continue
                if decoded.mnemonic in _SAVES:
                    code = prefix + bytes([opcode, modrm | 0x80]) + struct.pack("<i", _IMAGE - _OPERAND)
                yield code


def _size(decoded: iced_x86.Instruction) -> int:
    return int(iced_x86.MemorySizeExt.size(decoded.memory_size))


_SAVES = (iced_x86.Mnemonic.FNSTENV, iced_x86.Mnemonic.FNSAVE)
CODES = list(_instructions())


@pytest.fixture(scope="module")
def native() -> Iterator[NativeProcessor]:
    processor = NativeProcessor()
    yield processor
    processor.close()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    runner = Runner(Path(tmp_path_factory.mktemp("code")))
    runner.prepare(CODES)
    return runner


def _environment(choices: Choices) -> tuple[int, int, int]:
    """Control, status, tags: stack faults, unmasked and pending exceptions more often than programs have them."""
    control = 0x40 | choices.pick((0x3F, 0x3F, 0, choices.bits(6))) | choices.bits(2) << 10
    control |= choices.pick((0, 2, 3, 3)) << 8
    status = choices.bits(16) & 0x7F00
    status |= choices.bits(7) & (0x7F if choices.chance(10) else control & 0x3F)
    if status & ~control & 0x3F:
        status |= 0x8080
    return (
        control,
        status,
        choices.pick((0xFF, 0xFF, 0, choices.bits(8), 1 << choices.bits(3), 0xFF ^ 1 << choices.bits(3))),
    )


def _operand(choices: Choices, decoded: iced_x86.Instruction) -> bytes:
    size, kind = _size(decoded), decoded.memory_size
    if size in (14, 28, 94, 108):
        control, status, _ = _environment(choices)
        fields = [control | choices.bits(16) & 0xE0C0, status, choices.bits(16), 0, 0, 0, 0]
        head = struct.pack("<7H" if size in (14, 94) else "<7I", *fields)
        return head + b"".join(values.extended(choices).to_bytes(10, "little") for _ in range(8))
    if kind == iced_x86.MemorySize.FLOAT80:
        return values.extended(choices).to_bytes(10, "little")
    if kind == iced_x86.MemorySize.BCD:
        return values.packed_decimal(choices).to_bytes(10, "little")
    if kind in (iced_x86.MemorySize.FLOAT32, iced_x86.MemorySize.FLOAT64):
        return values.floating(choices, 8 * size).to_bytes(size, "little")
    return values.integer(choices, 8 * size).to_bytes(size, "little") if size else b""


def _case(code: bytes, seed: int, number: int) -> Case:
    """A case of one or more instructions; the first one's memory operand holds what suits it."""
    choices = Choices(seed << 64 | int.from_bytes(code[:8], "big"))
    control, status, tag = _environment(choices)
    image = bytearray(areas.FX_SIZE)
    struct.pack_into("<HHB", image, areas.FX_CONTROL, control, status, tag)
    struct.pack_into("<I", image, areas.FX_MXCSR, areas.MXCSR_RESET)
    for i in range(8):
        at = areas.FX_ST + 16 * i
        image[at : at + 10] = values.extended(choices).to_bytes(10, "little")
    gpr = [values.integer(choices, 64) for _ in range(16)]
    gpr[_RDI] = areas.WINDOW + _OPERAND
    decoded = list(iced_x86.Decoder(64, code))
    window = bytearray(choices.bytes(areas.WINDOW_SIZE))
    operand = _operand(choices, decoded[0])
    window[_OPERAND : _OPERAND + len(operand)] = operand
    ignored = []
    for instruction in decoded:
        if instruction.mnemonic in _SAVES:
            # The last instruction's pointers and opcode.
            ignored.append((_IMAGE + 6, 8) if _size(instruction) in (14, 94) else (_IMAGE + 12, 16))
    flags = 0x202 | choices.bits(12) & 0x8D5
    state = State(gpr, flags, bytes(image), bytes(window), areas.slot_address(number))
    text = "; ".join(str(instruction) for instruction in decoded)
    return Case(code, state, "long64", text, ignored_memory=tuple(ignored), seed=seed)


def _check(cases: list[Case], native: NativeProcessor, ours: Runner) -> None:
    failures = []
    for case, expected in zip(cases, native.run(cases), strict=True):
        lines = compare.differences(case, expected, ours.run(case))
        if lines:
            failures.append(compare.describe(case, lines))
    assert not failures, f"{len(failures)} of {len(cases)} differ:\n" + "\n".join(failures[:10])


@pytest.mark.parametrize("part", range(16))
def test_every_encoding_does_what_the_host_does(part: int, native: NativeProcessor, ours: Runner) -> None:
    pairs = [(code, seed) for code in CODES[part::16] for seed in range(_TRIALS)]
    _check([_case(code, seed, i % areas.SLOT_COUNT) for i, (code, seed) in enumerate(pairs)], native, ours)


@pytest.mark.parametrize("seed", range(4))
def test_sequences_do_what_the_host_does(seed: int, native: NativeProcessor, ours: Runner) -> None:
    """The state that one instruction leaves for the next, the host's own control word among it."""
    choices = Choices(seed)
    codes = [b"".join(choices.pick(CODES) for _ in range(choices.between(2, 8))) for _ in range(1000)]
    _check([_case(code, seed, i % areas.SLOT_COUNT) for i, code in enumerate(codes)], native, ours)


def _faulting_case(code: bytes, seed: int, number: int) -> Case:
    """The memory operand begins in the page that is not there, or reaches into it."""
    case = _case(code, seed, number)
    choices = Choices(seed)
    decoded = iced_x86.Decoder(64, code).decode()
    inside = choices.between(0, _size(decoded) - 1)
    displacement = _IMAGE - _OPERAND if decoded.mnemonic in _SAVES else 0
    case.state.gpr[_RDI] = areas.UNMAPPED - inside - displacement
    # The host may have stored the 8 bytes of a significand when the exponent's page turns out to be missing.
    case.ignored_memory = ((0, areas.WINDOW_SIZE),) if _size(decoded) == 10 else ()
    return case


_WITH_MEMORY = [code for code in CODES if _size(iced_x86.Decoder(64, code).decode())]
_IMAGE_SIZES = (14, 28, 94, 108)


def test_page_faults_are_the_hosts(native: NativeProcessor, ours: Runner) -> None:
    codes = [code for code in _WITH_MEMORY if _size(iced_x86.Decoder(64, code).decode()) not in _IMAGE_SIZES]
    pairs = [(code, seed) for code in codes for seed in range(20)]
    _check([_faulting_case(code, seed, i % areas.SLOT_COUNT) for i, (code, seed) in enumerate(pairs)], native, ours)


def test_a_page_fault_leaves_images_and_registers_as_they_were(ours: Runner) -> None:
    """How far the host comes with an image before it faults is its own affair."""
    for code in _WITH_MEMORY:
        size = _size(iced_x86.Decoder(64, code).decode())
        if size in (*_IMAGE_SIZES, 10):
            for seed in range(20):
                case = _faulting_case(code, seed, 0)
                image = bytearray(case.state.fx)
                image[areas.FX_STATUS : areas.FX_STATUS + 2] = bytes(2)  # nothing pending
                case.state.fx = bytes(image)
                outcome = ours.run(case)
                if size == 10 and outcome.vector == -1:
                    continue  # an unmasked stack fault kept the store away
                assert outcome.vector == PAGE_FAULT
                assert outcome.state == case.state


@pytest.mark.parametrize("code", ["d917", "dd1f", "db3f", "df0f", "df37"])  # fst, fstp m64, fstp m80, fisttp, fbstp
def test_a_page_fault_comes_before_an_unmasked_exception_of_a_store(code: str, ours: Runner) -> None:
    """ST(0) is empty and the exception unmasked, so nothing is stored; the missing page is reported first."""
    case = _case(bytes.fromhex(code), 0, 0)
    image = bytearray(case.state.fx)
    struct.pack_into("<HHB", image, areas.FX_CONTROL, 0x340, 0, 0)
    case.state.fx = bytes(image)
    assert ours.run(case).vector == -1
    case.state.gpr[_RDI] = areas.UNMAPPED - 1
    outcome = ours.run(case)
    assert (outcome.vector, outcome.error, outcome.address) == (PAGE_FAULT, 6, areas.UNMAPPED)
    assert outcome.state == case.state


def test_an_unmasked_exception_raises_math_fault_at_the_next_waiting_instruction(ours: Runner) -> None:
    code = bytes.fromhex("dbe3 d92f d9ee d9ee def9 dfe0 d9e8")  # fninit; fldcw [rdi]; fldz; fldz; fdivp; fnstsw; fld1
    case = _case(code, 0, 0)
    window = bytearray(case.state.window)
    window[_OPERAND : _OPERAND + 2] = struct.pack("<H", 0x37E)
    case.state.window = bytes(window)
    outcome = ours.run(case)
    assert outcome.vector == 16
    assert outcome.state.rip == case.state.rip + len(code) - 2
    # IE, ES and B; nothing was popped.
    assert outcome.state.gpr[0] & 0xFFFF == 0xB081


def test_a_pending_exception_goes_to_plain_python_without_native_errors(ours: Runner) -> None:
    code = bytes.fromhex("d9e8")
    case = _case(code, 0, 0)
    image = bytearray(case.state.fx)
    struct.pack_into("<HHB", image, areas.FX_CONTROL, 0x37E, 0x8081, 0)
    case.state.fx = bytes(image)
    ours.cr0 = CR0_PE
    try:
        outcome = ours.run(case)
    finally:
        ours.cr0 = CR0_PE | CR0_NE
    assert outcome.vector == PLAIN_PYTHON
    assert outcome.state.fx == case.state.fx


_IP, _DP, _CS, _DS, _OPCODE = 0x00A1_B2C3, 0x00D4_E5F6, 0x1234, 0x5678, 0x5A5
#: The words after control, status and tag: APM vol. 2 (24593), 11.4.4, with pointers as above.
_IMAGES = {
    ("protected", "d9b700010000"): (_IP, _OPCODE << 16 | _CS, _DP, 0xFFFF_0000 | _DS),
    ("protected", "66d9b700010000"): (_IP & 0xFFFF, _CS, _DP & 0xFFFF, _DS),
    ("real", "d9b700010000"): (0xFFFF_B2C3, 0xA1 << 12 | _OPCODE, 0xFFFF_E5F6, 0xD4 << 12),
    ("real", "66d9b700010000"): (0xB2C3, 0x1 << 12 | _OPCODE, 0xE5F6, 0x4 << 12),
}


@pytest.mark.parametrize(("mode", "code"), _IMAGES)
def test_pointers_in_a_stored_environment(mode: str, code: str, ours: Runner) -> None:
    case = _case(bytes.fromhex(code), 0, 0)
    ours.cr0 = CR0_NE | (CR0_PE if mode == "protected" else 0)
    for field, value in zip(POINTER_FIELDS, (_IP, _DP, _CS, _DS, _OPCODE), strict=True):
        ours.put(field, "Q", value)
    try:
        outcome = ours.run(case)
        small = code.startswith("66")
        stored = struct.unpack_from("<7H" if small else "<7I", outcome.state.window, _IMAGE)
        assert stored[3:] == _IMAGES[mode, code]
        # Loaded again, they are what the format could hold.
        load = bytearray(case.code)
        load[-5] = 0xA7  # /4 instead of /6
        back = _case(bytes(load), 0, 0)
        back.state.window = outcome.state.window
        back.state.fx = back.state.fx[:2] + bytes(2) + back.state.fx[4:]
        assert ours.run(back).vector == -1
        got = [ours.get(field, "Q") for field in POINTER_FIELDS]
    finally:
        ours.cr0 = CR0_PE | CR0_NE
        for field in POINTER_FIELDS:
            ours.put(field, "Q", 0)
    if mode == "protected":
        cut = 0xFFFF if small else 0xFFFF_FFFF
        assert got == [_IP & cut, _DP & cut, _CS, _DS, 0 if small else _OPCODE]
    else:
        cut = 0xF_FFFF if small else 0xFFFF_FFFF
        assert got == [_IP & cut, _DP & cut, 0, 0, _OPCODE]
