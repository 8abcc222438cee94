"""Which handlers a block's instructions need: that depends on who looks at their flags, and on what comes next."""

from __future__ import annotations

from trapgate.isa.decoded import Decoded

#: Instructions whose flags a conditional jump behind them may take straight from their result.
FUSIBLE = frozenset(("cmp", "test", "and", "sub", "add", "or", "xor", "dec", "inc"))


def liveness(decoded: list[Decoded]) -> list[bool]:
    """For each instruction of a block, whether somebody may look at the flags behind it."""
    live = True
    found: list[bool] = []
    for d in reversed(decoded):
        found.append(live)
        if d.python or d.may_fault or d.flags_read:
            live = True
        elif d.flags_killed:
            live = False
    found.reverse()
    return found


def handler_keys(decoded: list[Decoded]) -> list[str]:
    """The handler key of each instruction ('' for those that Python carries out), flags liveness and fusion
    included."""
    keys: list[str] = []
    for d, live in zip(decoded, liveness(decoded), strict=True):
        if d.python:
            keys.append("")
        else:
            # A write may drop the block, and then other instructions may follow.
            keys.append(d.text if live or d.writes_memory else d.dead_text)
    if len(decoded) > 1 and decoded[-1].name == "jcc":
        before = decoded[-2]
        if before.name in FUSIBLE and not before.writes_memory:
            keys[-2] = f"{keys[-2]}|{keys[-1]}"
    return keys
