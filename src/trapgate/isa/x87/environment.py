"""The unit's state as an image in memory: FLDENV, FNSTENV, FRSTOR, FNSAVE.

Formats: APM vol. 2 (24593), 11.4.4 "FSAVE and FRSTOR Instructions", with its figures. The environment is seven words
(16-bit operand size) or seven doublewords; in real and virtual-8086 mode its pointers are linear addresses, cut into
16-bit pieces, in protected mode selectors and offsets. The eight registers follow, ST(0) first, 10 bytes each.
"""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.registers import CR0_PE, VM
from trapgate.isa.context import Context, Operand, semantics
from trapgate.isa.ir import Value
from trapgate.isa.x87.control import initialize
from trapgate.isa.x87.unit import EXCEPTIONS, Unit, set_control, set_status_word, status_word

_ENVIRONMENT_FIELDS = 7
_SMALL_IMAGES = (14 * 8, 94 * 8)
_OPCODE_BITS = 0x7FF
# Tags (APM vol. 1, 24592, 6.2.4).
_TAG_VALID, _TAG_ZERO, _TAG_SPECIAL, _TAG_EMPTY = range(4)


def _part(c: Context, image: Operand, offset: int, width: int) -> Operand:
    """`width` bits of the image, `offset` bytes from its start."""
    part = image.displaced(c.emit.constant(offset, c.address_bits))
    part.width = width
    return part


def _field_width(image: Operand) -> int:
    return 16 if image.width in _SMALL_IMAGES else 32


def _addresses_are_linear(c: Context) -> Value:
    """Real and virtual-8086 mode (i1)."""
    return (c.field(layout.CR0) & CR0_PE).eq(0) | (c.field(layout.SYSTEM_FLAGS) & VM).ne(0)


def _tag(c: Context, number: int) -> Value:
    """The tag (i16) of a physical register."""
    significand = c.field(layout.fpr(number))
    exponent = c.field(layout.fpr(number) + 8, 16) & 0x7FFF
    zero_exponent = exponent.eq(0)
    special = zero_exponent | exponent.eq(0x7FFF) | significand.sge(0)
    tags = [c.emit.constant(x, 16) for x in (_TAG_VALID, _TAG_ZERO, _TAG_SPECIAL, _TAG_EMPTY)]
    kind = special.select(tags[_TAG_SPECIAL], tags[_TAG_VALID])
    kind = (zero_exponent & significand.eq(0)).select(tags[_TAG_ZERO], kind)
    return c.field(layout.FPU_VALID + number, 8).ne(0).select(kind, tags[_TAG_EMPTY])


def _tag_word(c: Context) -> Value:
    word = c.emit.constant(0, 16)
    for number in range(8):
        word = word | (_tag(c, number) << (2 * number))
    return word


def _set_tag_word(c: Context, word: Value) -> None:
    """Only "empty" is taken from the image; the other tags follow from the registers."""
    for number in range(8):
        tag = (word >> (2 * number)) & 3
        c.set_field(layout.FPU_VALID + number, tag.ne(_TAG_EMPTY).zext(8))


def _environment(c: Context, width: int) -> list[Value]:
    """The seven fields, `width` bits each; unused upper halves are ones, as processors store them."""
    ones = 0xFFFF_0000
    words = [c.field(layout.FPU_CONTROL, 16), status_word(c), _tag_word(c)]
    opcode = c.field(layout.FPU_OPCODE, 32) & _OPCODE_BITS
    ip, dp = c.field(layout.FPU_IP, 32), c.field(layout.FPU_DP, 32)
    cs, ds = c.field(layout.FPU_CS, 32) & 0xFFFF, c.field(layout.FPU_DS, 32) & 0xFFFF
    ip_low, dp_low = ip & 0xFFFF, dp & 0xFFFF
    if width == 16:
        protected = [ip_low, cs, dp_low, ds]
        linear = [ip_low, ((ip >> 4) & 0xF000) | opcode, dp_low, (dp >> 4) & 0xF000]
        head = words
    else:
        protected = [ip, cs | (opcode << 16), dp, ds | ones]
        linear = [ip_low | ones, ((ip >> 4) & 0x0FFF_F000) | opcode, dp_low | ones, (dp >> 4) & 0x0FFF_F000]
        head = [word.zext(32) | ones for word in words]
    is_linear = _addresses_are_linear(c)
    return [*head, *(is_linear.select(a, b).trunc(width) for a, b in zip(linear, protected, strict=True))]


def _set_environment(c: Context, fields: list[Value]) -> None:
    width = fields[0].width
    control, status, tags = (field.trunc(16) for field in fields[:3])
    ip, ip_high, dp, dp_high = (field.zext(32) for field in fields[3:])
    is_linear = _addresses_are_linear(c)
    high_mask = 0xF000 if width == 16 else 0x0FFF_F000
    linear_ip = (ip & 0xFFFF) | ((ip_high & high_mask) << 4)
    linear_dp = (dp & 0xFFFF) | ((dp_high & high_mask) << 4)
    zero = c.emit.constant(0, 32)
    opcode = zero if width == 16 else ip_high >> 16
    new = (
        (layout.FPU_IP, linear_ip, ip),
        (layout.FPU_DP, linear_dp, dp),
        (layout.FPU_CS, zero, ip_high & 0xFFFF),
        (layout.FPU_DS, zero, dp_high & 0xFFFF),
        (layout.FPU_OPCODE, ip_high & _OPCODE_BITS, opcode & _OPCODE_BITS),
    )
    for offset, linear, protected in new:
        c.set_field(offset, is_linear.select(linear, protected).zext(64))
    _set_tag_word(c, tags)
    set_control(c, control)
    set_status_word(c, status)


def _read_environment(c: Context, image: Operand) -> list[Value]:
    width = _field_width(image)
    return [_part(c, image, i * width // 8, width).read() for i in range(_ENVIRONMENT_FIELDS)]


def _write_all(c: Context, image: Operand, parts: list[tuple[int, Value]]) -> None:
    """Write (offset, value)s, first to last, after both ends are found writable: a fault changes nothing."""
    for offset, value in (parts[0], parts[-1]):
        _part(c, image, offset, value.width).update()
    for offset, value in parts:
        _part(c, image, offset, value.width).write(value)


def _environment_parts(c: Context, image: Operand) -> list[tuple[int, Value]]:
    width = _field_width(image)
    return [(i * width // 8, field) for i, field in enumerate(_environment(c, width))]


@semantics("fldenv")
def fldenv(c: Context, image: Operand) -> None:
    Unit(c)
    _set_environment(c, _read_environment(c, image))


@semantics("fnstenv")
def fnstenv(c: Context, image: Operand) -> None:
    """All exceptions are masked after the environment is stored."""
    _write_all(c, image, _environment_parts(c, image))
    set_control(c, c.field(layout.FPU_CONTROL, 16) | EXCEPTIONS)


def _register_offset(image: Operand, index: int) -> int:
    return _ENVIRONMENT_FIELDS * _field_width(image) // 8 + 10 * index


@semantics("fnsave")
def fnsave(c: Context, image: Operand) -> None:
    unit = Unit(c, waits=False)
    parts = _environment_parts(c, image)
    parts += [(_register_offset(image, i), unit.st(i).read()) for i in range(8)]
    _write_all(c, image, parts)
    initialize(c)


@semantics("frstor")
def frstor(c: Context, image: Operand) -> None:
    Unit(c)
    fields = _read_environment(c, image)
    registers = [_part(c, image, _register_offset(image, i), 80).read() for i in range(8)]
    _set_environment(c, fields)
    unit = Unit(c, waits=False)  # with the new TOP
    for i, value in enumerate(registers):
        unit.st(i).write(value)
