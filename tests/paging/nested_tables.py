"""Random tables of a guest and of its host, for nested paging, in a processor's memory."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from trapgate.arch import layout
from trapgate.arch.registers import CR0_ET, CR0_PE, CR4_PAE, CR4_PSE, EFER_LMA, EFER_LME, EFER_NXE
from trapgate.engine.processor import Processor

from . import naive
from .tables import TABLES_AT, Setup, install, random_setup

#: Host-physical: where the nested tables are, and how many pages of them there can be.
NESTED_AT, NESTED_PAGES = 0x20_0000, 40
#: What is compared: host-physical addresses and sizes.
REGIONS = ((TABLES_AT, 0x1_0000), (NESTED_AT, NESTED_PAGES * 4096), (TABLES_AT + 0x20_0000, 0x1_0000))
_GUEST_PAGES = 16
_SHIFTS = {"two-level": (22, 12), "pae": (30, 21, 12), "long": (39, 30, 21, 12)}
P, W, U, A, D, PS, G = (1 << bit for bit in (0, 1, 2, 5, 6, 7, 8))


class HostTables:
    """Tables being built: sensible ones, with accessed, dirty, global and PAT bits by chance."""

    def __init__(self, kind: str, choose: random.Random, at: int = NESTED_AT, root: int = 0) -> None:
        self.kind, self.choose, self.at = kind, choose, at
        self.size, self.index_bits = (4, 10) if kind == "two-level" else (8, 9)
        self.bytes = bytearray(NESTED_PAGES * 4096)
        self.root = root
        self._used = 1
        #: Places of entries that are in use, with their levels' shifts.
        self.entries: list[tuple[int, int]] = []

    def get(self, place: int) -> int:
        return int.from_bytes(self.bytes[place : place + self.size], "little")

    def put(self, place: int, value: int) -> None:
        self.bytes[place : place + self.size] = value.to_bytes(self.size, "little")

    def map(self, address: int, target: int, large: int = 12) -> None:
        """Map a 4 KB page, or the large page around it at the level whose shift is `large`, unless it is mapped."""
        table = self.root
        for shift in _SHIFTS[self.kind]:
            index = address >> shift & ((1 << self.index_bits) - 1)
            if self.kind == "pae" and shift == 30:
                index &= 3
            place = table + index * self.size
            entry = self.get(place)
            leaf = shift in (large, 12)
            if not entry:
                entry = self._leaf(target, shift) if leaf else self._pointer(shift)
                self.put(place, entry)
                self.entries.append((place, shift))
            if shift == 12 or (shift != 39 and entry & PS):
                return
            table = (entry & 0xFFFF_F000) - self.at

    def _rights(self) -> int:
        chance = self.choose.random
        return P | W | U | A * (chance() < 0.4) | D * (chance() < 0.3) | G * (chance() < 0.3)

    def _pointer(self, shift: int) -> int:
        page, self._used = self._used, self._used + 1
        assert page < NESTED_PAGES
        return self.at + page * 4096 | (P if self.kind == "pae" and shift == 30 else self._rights())

    def _leaf(self, target: int, shift: int) -> int:
        value = target & ~((1 << shift) - 1) | self._rights()
        pat = self.choose.random() < 0.3
        if shift == 12:
            return value & ~PS | PS * pat
        return value | PS | pat << 12

    def spoil(self) -> None:
        """Make one entry in use forbid something."""
        place, shift = self.choose.choice(self.entries)
        bits = [0, 1, 2]
        if self.size == 8:
            bits += [63, 63, 51, 58]
        if self.kind == "two-level" and shift == 22:
            bits.append(21)
        if shift != 12:
            bits.append(7)
        if shift == 12 and self.choose.random() < 0.5:
            bits = [0, 1, 2, 63 if self.size == 8 else 1]
        self.put(place, self.get(place) ^ 1 << self.choose.choice(bits))


@dataclass
class World:
    """A guest's registers and tables, and the host's."""

    guest: Setup
    host: naive.Registers
    nested: bytes
    #: Host-physical address of the guest's tables.
    guest_at: int


GUESTS = ("off", "two-level", "pae", "long")
HOSTS = ("two-level", "pae", "long")


def random_world(seed: int, guest_kind: str, host_kind: str) -> World:
    """A guest in a mode ("off": without paging) under a host in a mode."""
    choose = random.Random(seed)
    setup = random_setup(choose.getrandbits(32), "long" if guest_kind == "off" else guest_kind)
    tables = bytearray(setup.tables)
    registers = replace(setup.registers, pdptes=None, paging=guest_kind != "off")
    if guest_kind == "pae":
        root = (_GUEST_PAGES - 1) * 4096 + 32 * choose.randrange(4)
        for i in range(4):
            entry = TABLES_AT | (choose.random() < 0.95) | choose.getrandbits(3) << 9
            if choose.random() < 0.03:
                entry |= 1 << choose.choice((1, 2, 5, 8, 51, 52, 63))
            tables[root + 8 * i : root + 8 * i + 8] = entry.to_bytes(8, "little")
        registers = replace(registers, cr3=TABLES_AT + root)
    linear = [choose.randrange(4 << 20) for _ in setup.linear] if guest_kind == "off" else setup.linear
    guest = Setup(registers, linear, bytes(tables))

    root = 32 * choose.randrange(4) if host_kind == "pae" else 0
    host_tables = HostTables(host_kind, choose, root=root)
    large = choose.choice({"two-level": (12, 22), "pae": (12, 21), "long": (12, 21, 30)}[host_kind])
    moved = 0x20_0000 if large in (12, 21) and choose.random() < 0.7 else 0
    for page in range(_GUEST_PAGES):
        host_tables.map(TABLES_AT + 4096 * page, TABLES_AT + 4096 * page + moved, large)
    _map_finals(choose, guest, host_tables, host_kind)
    for _ in range(choose.choice((0, 0, 0, 1, 1, 3))):
        host_tables.spoil()
    host = naive.Registers(
        cr3=NESTED_AT + root, pae=host_kind != "two-level", long_mode=host_kind == "long", pdptes=None,
        page_size_extensions=choose.random() < 0.9, no_execute_enable=choose.random() < 0.7,
    )  # fmt: skip
    return World(guest, host, bytes(host_tables.bytes), TABLES_AT + moved)


def _map_finals(choose: random.Random, guest: Setup, tables: HostTables, host_kind: str) -> None:
    """What the guest's own tables lead to has nested mappings too, most of it."""
    mapped = 0
    for linear in guest.linear:
        final = linear
        if guest.registers.paging:
            found = naive.translate(_reader(guest.tables, TABLES_AT), guest.registers, linear, naive.Access())
            if not isinstance(found, naive.Translation):
                continue
            final = found.physical
        if final >> (48 if host_kind == "long" else 32) or mapped == 8 or choose.random() < 0.05:
            continue
        mapped += 1
        sizes = {"two-level": (12, 12, 22), "pae": (12, 12, 21), "long": (12, 12, 21, 30)}[host_kind]
        tables.map(final, choose.randrange(1 << (20 if host_kind == "two-level" else 30)) << 12, choose.choice(sizes))


def _reader(tables: bytes, at: int) -> naive.ReadEntry:
    def read(physical: int, size: int) -> int:
        if not at <= physical < at + len(tables):
            return (1 << 8 * size) - 1
        return int.from_bytes(tables[physical - at : physical - at + size], "little")

    return read


def install_world(processor: Processor, world: World, asid: int = 1) -> None:
    """Put both tables and all registers in place; the TLB is empty afterwards."""
    install(processor, Setup(replace(world.guest.registers, pdptes=(0, 0, 0, 0)), [], b""))
    for at, size in REGIONS:
        processor.memory.write(at, bytes(size))
    processor.memory.write(world.guest_at, world.guest.tables)
    processor.memory.write(NESTED_AT, world.nested)
    state, guest, host = processor.state, world.guest.registers, world.host
    if not guest.paging:
        state.set(layout.CR0, CR0_PE | CR0_ET)
        state.set(layout.EFER, 0)
    state.set(layout.NESTED, 1)
    state.set(layout.NESTED_CR3, host.cr3)
    state.set(layout.HOST_CR4, (CR4_PAE if host.pae else 0) | (CR4_PSE if host.page_size_extensions else 0))
    efer = (EFER_NXE if host.no_execute_enable else 0) | (EFER_LME | EFER_LMA if host.long_mode else 0)
    state.set(layout.HOST_EFER, efer)
    state.set(layout.ASID, asid)
    processor.native_reset_fast(state.address)
    processor.mode_changed()
