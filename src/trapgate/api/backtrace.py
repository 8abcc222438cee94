"""Where the guest is: symbols from an ELF file, the chain of stack frames, disassembly, and all of it as a report."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import iced_x86 as iced

from trapgate.api import checks
from trapgate.api.accesses import LONGEST_INSTRUCTION
from trapgate.api.console import Console
from trapgate.api.errors import ApiError, NotMapped, UnknownSymbol
from trapgate.api.memory import VirtualMemory
from trapgate.arch.registers import RBP
from trapgate.engine.processor import Processor
from trapgate.lab.processor_report import describe_processor, read_code

#: Frames that a backtrace has at most: more are a loop in a broken stack.
MOST_FRAMES = 64
#: A symbol without a size reaches at most this far, in bytes.
LONGEST_FUNCTION = 1 << 16


class NotAnElfFile(ApiError):
    """Symbols were to be read from something else."""

    def __init__(self, path: str, got: str) -> None:
        super().__init__(f"an ELF file with symbols at {path}", got, "name the kernel before it was stripped")


class Symbols:
    """Functions by linear address: those of an ELF file, or names with their addresses."""

    def __init__(self, source: str | os.PathLike[str] | Mapping[str, int]) -> None:
        """Raises NotAnElfFile, InvalidArgument."""
        if isinstance(source, Mapping):
            for name, place in source.items():
                checks.number(f"the symbol {name}", place, 1 << 64, "an address of at most 64 bits")
            found = {address: (name, 0) for name, address in source.items()}
        else:
            found = _read_elf(source)
        self._starts = sorted(found)
        self._found = found
        self._addresses = {name: start for start, (name, _) in found.items()}

    def address(self, name: str) -> int:
        """Linear address of a symbol. Raises UnknownSymbol."""
        if name not in self._addresses:
            raise UnknownSymbol(name, len(self._addresses))
        return self._addresses[name]

    def describe(self, address: int) -> str:
        """`name+0x12` for an address, or an empty text."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return ""
        start = self._starts[index]
        name, size = self._found[start]
        if address - start >= (size or LONGEST_FUNCTION):
            return ""
        return f"{name}+{address - start:#x}"


def _read_elf(path: str | os.PathLike[str]) -> dict[int, tuple[str, int]]:
    """Name and size in bytes of every function and label, by address. Raises NotAnElfFile."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    found: dict[int, tuple[str, int]] = {}
    try:
        with open(path, "rb") as file:
            for section in ELFFile(file).iter_sections():
                if not isinstance(section, SymbolTableSection):
                    continue
                for symbol in section.iter_symbols():
                    kind, value = symbol["st_info"]["type"], int(symbol["st_value"])
                    if symbol["st_shndx"] == "SHN_UNDEF" or not symbol.name:
                        continue
                    # A function is a better name than a label at the same place.
                    if kind == "STT_FUNC" or (kind == "STT_NOTYPE" and value not in found):
                        found[value] = (symbol.name, int(symbol["st_size"]))
    except OSError as error:
        raise NotAnElfFile(str(path), (error.strerror or "an error").lower()) from error
    except ELFError as error:
        raise NotAnElfFile(str(path), f"a file that is none ({error})") from error
    if not found:
        raise NotAnElfFile(str(path), "one without symbols")
    return found


@dataclass(frozen=True, slots=True)
class Frame:
    """A place in the guest's chain of calls; the first is rip itself. `symbol` is empty where none is known."""

    address: int
    symbol: str = ""

    def __str__(self) -> str:
        return f"{self.address:#018x}  {self.symbol}".rstrip()


class Inspector:
    """Looks at one processor, and changes nothing."""

    def __init__(self, processor: Processor, console: Console) -> None:
        self._p = processor
        self._console = console
        self._memory = VirtualMemory(processor)
        self._formatter = iced.Formatter(iced.FormatterSyntax.INTEL)
        self.symbols: Symbols | None = None

    def disassemble(self, address: int | None = None, count: int = 6) -> list[str]:
        """Lines for `count` instructions from a linear address (rip when None) on; fewer where no RAM is mapped."""
        at = self._p.linear_rip() if address is None else address
        code = read_code(self._p, at, count * LONGEST_INSTRUCTION)
        lines: list[str] = []
        for instruction in iced.Decoder(self._p.bits, code, ip=at):
            if len(lines) == count or instruction.is_invalid:
                break
            data = code[instruction.ip - at : instruction.ip - at + instruction.len].hex(" ")
            lines.append(f"{instruction.ip:#018x}  {data:<30}  {self._formatter.format(instruction)}")
        return lines

    def backtrace(self) -> list[Frame]:
        """The chain of calls by frame pointers (rBP), innermost first.

        Code without frame pointers ends it early or leaves callers out.
        """
        p, size = self._p, self._p.bits // 8
        frames = [self._frame(p.linear_rip())]
        if size == 2:
            return frames
        frame = p.register(RBP, p.bits)
        while len(frames) < MOST_FRAMES and frame:
            try:
                following = int.from_bytes(self._memory.read(frame, size), "little")
                address = int.from_bytes(self._memory.read(frame + size, size), "little")
            except NotMapped:
                break
            if not self._memory.is_mapped(address):
                break
            frames.append(self._frame(address))
            if following <= frame:
                break
            frame = following
        return frames

    def _frame(self, address: int) -> Frame:
        return Frame(address, "" if self.symbols is None else self.symbols.describe(address))

    def report(self, lines: int = 20) -> str:
        """The console's last lines, the chain of calls, and the processor's state with the code at rip."""
        parts = ["-- console", self._console.tail(lines) or "(nothing)"]
        parts += ["-- backtrace", *(str(frame) for frame in self.backtrace())]
        parts += ["-- processor", describe_processor(self._p)]
        return "\n".join(parts)
