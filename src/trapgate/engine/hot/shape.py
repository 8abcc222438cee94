"""Which blocks make a region: the loop, or the function, around a block where the run was found to be.

Links between blocks are made when they are first used, so following them follows paths that the guest has taken.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from trapgate.engine import record
from trapgate.engine.block import Block
from trapgate.engine.blocks import BlockStore
from trapgate.isa.operand_tables import SEGMENT_LOADS

#: What a region costs at most: an instruction 1, and a block besides, for LLVM's time grows faster than the number of
#: ways in a region. A long loop of few blocks may have 900 instructions, one with branches everywhere some 340.
MOST_COST = 1000
BLOCK_COST = 8
#: Instructions of a region that is no loop, at most.
MOST_STRAIGHT = 120
#: Places at most where a region can be entered.
MOST_ENTRIES = 24
#: A function with more callers is not taken for a part of the loop around it, unless it is found from there.
FEW_CALLERS = 2
#: Addresses at most that an indirect branch is compared with.
MOST_TARGETS = 12

#: Ends of blocks that regions have; at others a region is left.
ENDS = frozenset((
    "jcc", "jmp", "jmp_indirect", "call", "call_indirect", "ret", "jcxz", "jecxz", "jrcxz", "loop", "loope", "loopne",
    "end_of_block", "rdtsc", "rdtscp",
))  # fmt: skip
INDIRECT = frozenset(("jmp_indirect", "call_indirect", "ret"))
_CALLS = frozenset(("call", "call_indirect"))
_SEGMENT_LOADS = frozenset(SEGMENT_LOADS.values())


@dataclass(slots=True)
class Edge:
    """A link between two blocks of a region; `checked` where it leads to the page check of its target."""

    to: Block
    checked: bool


@dataclass(slots=True)
class Shape:
    """The blocks of a region, the first of which is where it was found."""

    blocks: list[Block]
    entries: list[Block]
    seed: Block
    #: (block, whether its branch is taken) -> where it goes, if that is in the region.
    edges: dict[tuple[Block, bool], Edge] = field(default_factory=dict)
    #: Where an indirect branch may go in the region.
    indirect: dict[Block, list[Block]] = field(default_factory=dict)
    #: The handler of the first record of each entry where no region was entered before, or is.
    originals: dict[Block, int] = field(default_factory=dict)

    @property
    def instructions(self) -> int:
        """How many instructions it has."""
        return sum(len(block.decoded) for block in self.blocks)


def can_hold(block: Block) -> bool:
    """Whether a block can be part of a region at all."""
    return block.valid and not block.watched and block.second_page is None and supported(block) > 0


def supported(block: Block) -> int:
    """How many of a block's instructions, from its first, a region can have.

    Not those of x87, which take the host's unit as long in a region, not FXSAVE and FXRSTOR, whose registers lie where
    TOP says, and not loads of segment registers, which read memory only sometimes.
    """
    if block.supported < 0:
        block.supported = _supported(block)
    return block.supported


def _supported(block: Block) -> int:
    for i, d in enumerate(block.decoded):
        if d.python or d.form is None or d.form.repeat or d.name.endswith("_checked") or d.name in _SEGMENT_LOADS:
            return i
        if (d.ends_block and d.name not in ENDS) or d.name[0] == "f" or d.name.startswith("maskmov"):
            return i
    return len(block.decoded)


class Former:
    """Forms regions out of the blocks of a store."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        #: What `_links` has found, while a region is formed: links do not change meanwhile.
        self._found: dict[Block, list[tuple[Block, bool]]] = {}

    def form(self, seed: Block) -> Shape | None:
        """The region around a block, or None where there can be none."""
        if not can_hold(seed):
            return None
        self._store.read_log()
        self._found.clear()
        reached = self._reachable(seed)
        loop = self._those_that_lead_back(seed, reached)
        if len(loop) > 1 or any(to is seed for to, _ in self._links(seed)):
            blocks = [block for block in reached if block in loop]
        else:
            blocks, total = [], 0
            for block in reached:
                total += len(block.decoded)
                if blocks and total > MOST_STRAIGHT:
                    break
                blocks.append(block)
        return self._shape(seed, blocks)

    # -- the graph

    def _link(self, block: Block, is_target: bool) -> Edge | None:
        end = block.end
        field_, unlinked = (
            (end + record.LINK, end + record.UNLINKED_TARGET)
            if is_target
            else (end + record.NEXT_LINK, end + record.UNLINKED_NEXT)
        )
        store = self._store
        address = store.words[(field_ - store.base) >> 3]
        if address == unlinked:
            return None
        to = store.block_at(address)
        return Edge(to, address == to.address) if can_hold(to) else None

    def _direct(self, block: Block) -> list[tuple[bool, Edge]]:
        last = block.decoded[-1]
        found: list[tuple[bool, Edge]] = []
        if block.target is not None:
            edge = self._link(block, True)
            if edge is not None:
                found.append((True, edge))
        if last.name not in ("jmp", "call", *INDIRECT):
            edge = self._link(block, False)
            if edge is not None:
                found.append((False, edge))
        return found

    def _return_site(self, block: Block) -> Block | None:
        if block.decoded[-1].name not in _CALLS:
            return None
        site = block.translation.blocks.get((block.next_rip, block.page))
        return site if site is not None and can_hold(site) else None

    def _links(self, block: Block) -> list[tuple[Block, bool]]:
        """(block, whether it is one that a call comes back to) for every way on."""
        found = self._found.get(block)
        if found is None:
            found = self._found[block] = self._find_links(block)
        return found

    def _find_links(self, block: Block) -> list[tuple[Block, bool]]:
        if supported(block) < len(block.decoded):
            return []
        ways = [(edge.to, False) for _, edge in self._direct(block)]
        name = block.decoded[-1].name
        # A function that is called from many places belongs to none of them.
        if name in INDIRECT:
            targets = self._store.targets_of(block)
            if name != "ret" or len(targets) <= FEW_CALLERS:
                ways += [(to, False) for to in targets if can_hold(to)]
        site = self._return_site(block)
        if site is not None:
            ways.append((site, True))
        return ways

    def _reachable(self, seed: Block) -> list[Block]:
        """Blocks on the ways from the seed, nearest first, as many as a region may have."""
        found = {seed: None}
        waiting = deque([seed])
        total = len(seed.decoded) + BLOCK_COST
        while waiting:
            for to, _ in self._links(waiting.popleft()):
                cost = len(to.decoded) + BLOCK_COST
                if to in found or total + cost > MOST_COST:
                    continue
                total += cost
                found[to] = None
                waiting.append(to)
        return list(found)

    def _those_that_lead_back(self, seed: Block, reached: list[Block]) -> set[Block]:
        """Those of them from which the seed is reached again."""
        inside = set(reached)
        before: dict[Block, list[Block]] = {block: [] for block in reached}
        returns = [block for block in reached if block.decoded[-1].name == "ret"]
        sites: list[Block] = []
        for block in reached:
            for to, is_site in self._links(block):
                if to in inside:
                    before[to].append(block)
                    if is_site:
                        sites.append(to)
        for site in sites:
            before[site] += returns
        leading, waiting = {seed}, [seed]
        while waiting:
            for block in before[waiting.pop()]:
                if block not in leading:
                    leading.add(block)
                    waiting.append(block)
        return leading

    # -- the region

    def _shape(self, seed: Block, blocks: list[Block]) -> Shape:
        inside = set(blocks)
        shape = Shape(blocks, [], seed)
        order = {block: i for i, block in enumerate(self._depth_first(seed, inside))}
        shape.blocks = sorted(blocks, key=lambda block: order.get(block, len(order)))
        order = {block: i for i, block in enumerate(shape.blocks)}
        heads: dict[Block, None] = {seed: None}
        sites = [to for block in blocks for to, is_site in self._links(block) if is_site and to in inside]
        for block in shape.blocks:
            if supported(block) < len(block.decoded):
                continue
            for is_target, edge in self._direct(block):
                if edge.to in inside:
                    shape.edges[block, is_target] = edge
                    if order[edge.to] <= order[block] or block.decoded[-1].name == "call":
                        heads[edge.to] = None
            name = block.decoded[-1].name
            if name in INDIRECT:
                targets = sites if name == "ret" else [to for to in self._store.targets_of(block) if to in inside]
                shape.indirect[block] = list(dict.fromkeys(targets))[:MOST_TARGETS]
                for to in shape.indirect[block]:
                    if name != "ret" and order[to] <= order[block]:
                        heads[to] = None
        # Where a call that leaves the region comes back to.
        for block in shape.blocks:
            site = self._return_site(block)
            if site is not None and site in inside and (block, True) not in shape.edges:
                heads[site] = None
        shape.entries = list(heads)[:MOST_ENTRIES]
        return shape

    def _depth_first(self, seed: Block, inside: set[Block]) -> list[Block]:
        """The blocks in reverse postorder: a block comes after those that lead to it, loops aside."""
        finished: list[Block] = []
        seen = {seed}
        stack = [(seed, iter([to for to, _ in self._links(seed)]))]
        while stack:
            block, ways = stack[-1]
            for to in ways:
                if to in inside and to not in seen:
                    seen.add(to)
                    stack.append((to, iter([way for way, _ in self._links(to)])))
                    break
            else:
                finished.append(block)
                stack.pop()
        return finished[::-1]


def needs_flags(block: Block) -> bool:
    """Whether somebody may look at the flags that a block finds before it sets them all."""
    for d in block.decoded:
        if d.python or d.may_fault or d.flags_read:
            return True
        if d.flags_killed:
            return False
    return True
