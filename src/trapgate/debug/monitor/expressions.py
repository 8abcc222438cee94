"""Numbers as the monitor takes them: `0x10`, `20`, `$rip`, with + - * / % & | ^ ~ and parentheses, 64 bits."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trapgate.arch.registers import GPR_NAMES, SEGMENT_NAMES
from trapgate.debug.errors import CommandError
from trapgate.debug.guest import Guest

_M64 = (1 << 64) - 1
_TOKEN = re.compile(r"\s*(?:(0[xX][0-9a-fA-F]+|[0-9]+)|(\$[a-zA-Z][a-zA-Z0-9]*)|([-+*/%&|^~()]))")
_LEVELS = ("&|^", "+-", "*/%")
#: What is nested deeper than this is nobody's arithmetic.
_DEEPEST = 50
_WORDS = {"pc": "rip", "eip": "rip", "eflags": "rflags"}


def evaluate(guest: Guest, text: str) -> int:
    """The value of an expression, unsigned, 64 bits. Raises CommandError."""
    tokens = list(_tokens(text))
    if not tokens:
        raise CommandError("unexpected end of expression")
    parser = _Parser(guest, tokens)
    value = parser.level(0, 0)
    if parser.tokens:
        raise CommandError(f"unexpected {parser.tokens[0]!r} in an expression")
    return value & _M64


def _tokens(text: str) -> Iterator[str]:
    at, text = 0, text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise CommandError(f"invalid char {text[at:].lstrip()[0]!r} in expression")
        yield match.group().strip()
        at = match.end()


class _Parser:
    def __init__(self, guest: Guest, tokens: list[str]) -> None:
        self._guest, self.tokens = guest, tokens

    def level(self, number: int, depth: int) -> int:
        if number == len(_LEVELS):
            return self._single(depth)
        value = self.level(number + 1, depth)
        while self.tokens and self.tokens[0] in _LEVELS[number]:
            operator = self.tokens.pop(0)
            value = self._apply(operator, value, self.level(number + 1, depth)) & _M64
        return value

    @staticmethod
    def _apply(operator: str, a: int, b: int) -> int:
        if operator in "/%" and b == 0:
            raise CommandError("division by zero")
        match operator:
            case "+":
                return a + b
            case "-":
                return a - b
            case "*":
                return a * b
            case "/":
                return a // b
            case "%":
                return a % b
            case "&":
                return a & b
            case "|":
                return a | b
        return a ^ b

    def _single(self, depth: int) -> int:
        if not self.tokens or depth > _DEEPEST:
            raise CommandError("unexpected end of expression")
        token = self.tokens.pop(0)
        if token == "(":
            value = self.level(0, depth + 1)
            if not self.tokens or self.tokens.pop(0) != ")":
                raise CommandError("')' expected")
            return value
        if token in "+-~":
            value = self._single(depth + 1)
            return value if token == "+" else ~value & _M64 if token == "~" else -value & _M64
        if token.startswith("$"):
            return register(self._guest, token[1:].lower())
        if token[0].isdigit():
            return int(token, 16 if token[:2] in ("0x", "0X") else 8 if token[0] == "0" and token.isdecimal() and
                       set(token) <= set("01234567") else 10)  # fmt: skip
        raise CommandError(f"unexpected {token!r} in an expression")


def register(guest: Guest, name: str) -> int:
    """A register by the name that it has in expressions. Raises CommandError."""
    name = _WORDS.get(name, name)
    general = guest.general()
    if name in general:
        return general[name]
    if name.startswith("e") and "r" + name[1:] in GPR_NAMES[:8]:
        return general["r" + name[1:]] & 0xFFFF_FFFF
    if name in SEGMENT_NAMES:
        return guest.segment(SEGMENT_NAMES.index(name)).selector
    if name in ("cr0", "cr2", "cr3", "cr4", "cr8"):
        return guest.control(int(name[2]))
    if name == "efer":
        return guest.efer
    raise CommandError("unknown register")
