"""The arithmetic flags in a region: carried from block to block as operands, and worked out when the region is left.

What follows from a sum or a difference is three values: the operands A and B, and the recipe, a constant. Recipe
2k + s is A + B (s = 0) or A - B (s = 1) of 64 - k bits; logic is a sum with 0. Where that does not do, the recipe is
WORDS, and the words of isa/flags.py are carried themselves. INC and DEC leave CF alone, so they have cells of their own
that are laid over those: the result R, and 2k + s + 1 (s = 1: DEC), or 0 where another instruction set flags last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trapgate.isa.flags import Flags
from trapgate.isa.ir import Value, Variable

if TYPE_CHECKING:
    from trapgate.engine.hot.context import RegionContext

WORDS = -1


class Snapshot(NamedTuple):
    """The flags at one place: what set them last, and what set CF last where that was INC or DEC."""

    kind: str
    values: tuple[Value, ...]
    below_kind: str
    below_values: tuple[Value, ...]


class RegionFlags(Flags):
    """The flags at one place of a region."""

    def __init__(self, context: RegionContext) -> None:
        super().__init__(context)
        self._e = context.emit
        self._a, self._b, self._recipe = (self._e.cell("i64") for _ in range(3))
        self._words: tuple[Variable, ...] = tuple(self._e.cell("i64") for _ in range(3))
        self._result, self._over = self._e.cell("i64"), self._e.cell("i64")
        self._below_kind = "stored"
        self._below_values: tuple[Value, ...] = ()
        #: Whether any instruction of the region changes them.
        self.changed = False

    def load(self, *words: Value) -> None:
        """Set them from the state block's words, where the region is entered."""
        for cell, value in zip(self._words, words, strict=True):
            cell.set(value)
        self._recipe.set(WORDS)
        self._over.set(0)

    def snapshot(self) -> Snapshot:
        """What `restore` brings back."""
        return Snapshot(self._kind, self._values, self._below_kind, self._below_values)

    def restore(self, snapshot: Snapshot) -> None:
        """Be again as they were."""
        self._kind, self._values, self._below_kind, self._below_values = snapshot

    def set_adc(self, a: Value, b: Value, result: Value) -> None:
        # The result is not the sum of A and B, so the words are carried.
        self._set("adc", a, b, result)

    def set_inc(self, carry: Value, result: Value, extreme: Value) -> None:
        if self._kind != "inc":
            self._below_kind, self._below_values = self._kind, self._values
        super().set_inc(carry, result, extreme)

    def flush(self) -> None:
        """Carry them into another block."""
        if self._kind in ("stored", "dead"):
            return
        self.changed = True
        if self._kind != "inc":
            self._flush_all(self._kind, self._values)
            self._over.set(0)
            return
        _, result, extreme = self._values
        if self._below_kind not in ("stored", "dead"):
            self._flush_all(self._below_kind, self._below_values)
        self._result.set(result.zext(64))
        self._over.set(2 * (64 - result.width) + (extreme is not result) + 1)

    def _flush_all(self, kind: str, values: tuple[Value, ...]) -> None:
        if kind in ("add", "sub"):
            a, b, result = values
            self._a.set(a.zext(64))
            self._b.set(b.zext(64))
            self._recipe.set(2 * (64 - result.width) + (kind == "sub"))
        elif kind == "logic":
            self._a.set(values[0].zext(64))
            self._b.set(0)
            self._recipe.set(2 * (64 - values[0].width))
        else:
            now = self.snapshot()
            self._kind, self._values = kind, values
            for cell, value in zip(self._words, self.words(), strict=True):
                cell.set(value)
            self.restore(now)
            self._recipe.set(WORDS)

    def words(self) -> tuple[Value, Value, Value]:
        # A shift by a constant that is not 0 reads them only to throw them away, even where they are dead.
        if self._kind == "adc":
            now = self.snapshot()
            self._kind = "add"
            words = super().words()
            self.restore(now)
            return words
        if self._kind not in ("stored", "dead"):
            return super().words()
        e = self._e
        a, b, recipe = self._a.get(), self._b.get(), self._recipe.get()
        s, k = recipe & 1, recipe >> 1 & 63
        m = e.constant(0, 64) - s
        result = a + (b ^ m) + s
        wide = (result << k).sar(k)
        x, z = a ^ m, ~(result ^ m)
        carries = (x & b) | ((x | b) & z)
        computed = (wide, wide, (carries << k) | (carries & 8))
        as_words = recipe.eq(WORDS)
        zero, sign, carry = (as_words.select(cell.get(), v) for cell, v in zip(self._words, computed, strict=True))

        over, stepped = self._over.get(), self._result.get()
        last = over - 1
        k = last >> 1 & 63
        extreme = stepped + (last & 1)
        wide = (stepped << k).sar(k)
        overflow, auxiliary = (extreme << k).eq(1 << 63), (extreme & 15).eq(0)
        laid_over = self.carry_word(carry.slt(0), overflow, auxiliary)
        plain = over.eq(0)
        return plain.select(zero, wide), plain.select(sign, wide), plain.select(carry, laid_over)
