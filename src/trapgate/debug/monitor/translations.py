"""`info mem`, `info tlb`: what the guest's page tables map; `info modelled-tlb`: what the processor's TLB holds."""

from __future__ import annotations

from itertools import islice

from trapgate.arch import paging as bits
from trapgate.arch.registers import CR0_PG
from trapgate.cpu import tlb
from trapgate.debug.guest import Guest

#: Tables that contain themselves map more than anybody can read: what is shown, and what is looked at.
MOST_LINES, MOST_PAGES = 1 << 16, 1 << 21
_LETTERS = (
    (bits.PTE_NX, "X"), (bits.PTE_G, "G"), (bits.PTE_PS, "P"), (bits.PTE_D, "D"), (bits.PTE_A, "A"),
    (bits.PTE_PCD, "C"), (bits.PTE_PWT, "T"), (bits.PTE_US, "U"), (bits.PTE_RW, "W"),
)  # fmt: skip
_RIGHTS = ((tlb.RIGHT_NX, "X"), (tlb.RIGHT_G, "G"), (tlb.RIGHT_D, "D"), (tlb.RIGHT_U, "U"), (tlb.RIGHT_W, "W"))
_SIZES = {4096: "4K", 2 << 20: "2M"}
_CUT = "... the tables map more than is shown\n"


def mappings(guest: Guest) -> str:
    """`info tlb`: one line for each page. In an entry of 4 KB the bit of P is the PAT's, which is not shown."""
    if not guest.control(0) & CR0_PG:
        return "PG disabled\n"
    lines = []
    found = guest.paging.mappings()
    for page in islice(found, MOST_LINES):
        entry = page.entry if page.size > 4096 else page.entry & ~bits.PTE_PS
        letters = "".join(letter if entry & bit else "-" for bit, letter in _LETTERS)
        lines.append(f"{page.linear:016x}: {page.physical:016x} {letters}\n")
    if next(found, None) is not None:
        lines.append(_CUT)
    return "".join(lines)


def ranges(guest: Guest) -> str:
    """`info mem`: ranges with the same rights: first and last + 1, size, rights."""
    if not guest.control(0) & CR0_PG:
        return "PG disabled\n"
    lines: list[str] = []
    start = end = -1
    rights = (False, False)

    def close() -> None:
        if start >= 0:
            user, writable = rights
            lines.append(
                f"{start:016x}-{end & (1 << 64) - 1:016x} {end - start:016x} "
                f"{'u' if user else '-'}r{'w' if writable else '-'}\n"
            )

    found = guest.paging.mappings()
    for page in islice(found, MOST_PAGES):
        if page.linear != end or (page.user, page.writable) != rights:
            close()
            start, rights = page.linear, (page.user, page.writable)
        end = page.linear + page.size
        if len(lines) >= MOST_LINES:
            return "".join([*lines, _CUT])
    close()
    if next(found, None) is not None:
        lines.append(_CUT)
    return "".join(lines)


def modelled(guest: Guest) -> str:
    """What the processor's modelled TLB (docs/tlb.md) holds: linear page, physical page, size, ASID, rights."""
    q = guest.processor.q
    lines: list[str] = []
    for name, side in (("data", tlb.DATA), ("instruction", tlb.INSTRUCTION)):
        first = [
            (q[side.tags + 8 * i >> 3], q[side.pages + 8 * i >> 3], q[side.rights + 8 * i >> 3],
             (~q[side.masks + 8 * i >> 3] & (1 << 64) - 1) + 1)
            for i in range(tlb.L1_ENTRIES)
        ]  # fmt: skip
        _list(lines, f"{name} L1", first)
        for label, start, count, size in (
            ("L2", side.l2, tlb.OPTERON_2007.l2_sets * tlb.WAYS, 4096),
            ("L2 2M", side.l2_large, tlb.OPTERON_2007.l2_large, 2 << 20),
        ):
            places = [start + i * tlb.L2_ENTRY >> 3 for i in range(count)]
            _list(lines, f"{name} {label}", [(q[p], q[p + 1], q[p + 2], size) for p in places])
    return "".join(lines)


def _list(lines: list[str], name: str, entries: list[tuple[int, int, int, int]]) -> None:
    held = [entry for entry in entries if entry[0] != tlb.NO_PAGE]
    lines.append(f"{name}: {len(held)} of {len(entries)} entries\n")
    for tag, page, rights, size in held:
        letters = "".join(letter if rights & bit else "-" for bit, letter in _RIGHTS)
        linear, asid = tag & ~tlb.ASID_MASK, tag & tlb.ASID_MASK
        lines.append(f"  {linear:016x}: {page:016x} {_SIZES.get(size, size)} asid={asid} {letters}\n")
