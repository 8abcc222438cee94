"""What a kernel's text says about each of its checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .emulators import EXIT, SHUTDOWN, Output
from .kernels import Check, without

#: STOPPED: the run ended at the check though nobody wanted that; UNREACHED: too many runs have ended before it.
PASS, FAIL, SKIP, STOPPED, UNREACHED = "pass", "FAIL", "skip", "stops", "-"


@dataclass(frozen=True)
class Outcome:
    """How a check came out, and what was wanted and got, or why it was skipped."""

    status: str
    detail: str = ""


#: How often a kernel is run again without the check at which its last run ended.
_MOST_RUNS = 5


class Runs(Protocol):
    """An emulator."""

    name: str

    def run(self, image: bytes, folder: Path) -> Output:
        """Run a kernel to its end."""


def run_kernel(
    checks: list[Check], image: bytes, emulator: Runs, folder: Path, left_out: frozenset[int] = frozenset()
) -> dict[str, Outcome]:
    """One outcome for each check but those whose places are in `left_out`.

    A check at which the run ends, though nobody wanted that, is left out and the kernel runs again.
    """
    found = {checks[number].name: Outcome(SKIP, "left out") for number in left_out}
    for _ in range(_MOST_RUNS):
        numbers = {number for number, check in enumerate(checks) if check.name in found}
        output = emulator.run(without(image, numbers), folder)
        complete = _read(checks, output, found)
        if complete:
            break
        if output.end == EXIT:
            raise RuntimeError(f"{emulator.name}: wanted a line for every check, got {output.text!r}: mend the kernel")
        dead = next(check.name for check in checks if check.name not in found)
        found[dead] = Outcome(STOPPED, output.end)
    return {check.name: found.get(check.name, Outcome(UNREACHED)) for check in checks}


def _read(checks: list[Check], output: Output, found: dict[str, Outcome]) -> bool:
    """Add to `found` what COM1's text says; whether every check has its outcome now."""
    names = [check.name for check in checks]
    waiting = ""
    for line in output.text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "SHUTDOWN":
            waiting = rest
        elif word in ("PASS", "FAIL", "SKIP"):
            # A name may have a colon; the detail stands behind the name.
            name = max((n for n in names if rest == n or rest.startswith(n + ": ")), key=len, default=rest)
            found[name] = Outcome({"PASS": PASS, "FAIL": FAIL, "SKIP": SKIP}[word], rest[len(name) + 2 :])
    if waiting and waiting not in found:
        shut = output.end == SHUTDOWN
        found[waiting] = Outcome(PASS) if shut else Outcome(FAIL, f"wanted shutdown, got: {output.end}")
    return all(name in found for name in names)
