"""Runs the conformance kernels on trapgate, QEMU, Bochs and KVM, and in virtual machines; writes docs/conformance.md.

    python scripts/conformance.py [--kernel NAME] [--show] [--without-kvm]

What is not installed has an empty column. Sources: tests/guests/conformance.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "tests")]

from guests.conformance import emulators, kernels, notes, results  # noqa: E402
from trapgate.vmm.techniques import TECHNIQUES  # noqa: E402

TABLE = REPOSITORY / "docs" / "conformance.md"
HEAD = """# Conformance

Small kernels of the project's own (`tests/guests/conformance/kernels/`), one check for each expectation of the manual.
The same image runs everywhere and reports on COM1. `python scripts/conformance.py` makes this file again; `make test`
runs the kernels on trapgate, where all must pass but the known gaps listed below, and on QEMU where that is installed.

| mark | meaning |
|---|---|
| pass | what the manual says |
| FAIL | another result; the note says what was wanted and got (hexadecimal) |
| stops | the emulator ended, reset or hung at this check |
| skip | the processor does not have what is checked |
| - | not reached: the emulator stopped at too many checks before |
"""
VIRTUAL = """The same kernels as guests of trapgate's hypervisor. `make test` runs them under three of the techniques.
"""
NOT_MEASURED = "not measured: the KVM of the host of this table emulates ring 0, slowly, and stops often"
KVM_NOTE = """
KVM is the host's own processor only as far as the host's KVM lets the guest run on it. KVM emulates instructions where
the hardware cannot run them (task switches, big real mode). The host on which this table was made has a KVM that works
without hardware support (its kernel calls it kvm-pvm): it emulates ring 0 and stops at what its emulator lacks. So this
column is one emulator more, and not the silicon; a host with AMD-V or VT-x gives a better judge.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kernel", action="append", help="only this one (may be given again); nothing is written")
    parser.add_argument("--show", action="store_true", help="print what does not pass; write nothing")
    parser.add_argument("--without-kvm", action="store_true", help="leave KVM's column empty")
    arguments = parser.parse_args()
    if not kernels.has_nasm():
        print("wanted nasm to build the kernels, got none: install Debian's package nasm", file=sys.stderr)
        return 2
    chosen = [k for k in kernels.all_kernels() if not arguments.kernel or k.name in arguments.kernel]
    if not chosen:
        names = ", ".join(k.name for k in kernels.all_kernels())
        print(f"wanted a kernel, got {arguments.kernel}: there are {names}", file=sys.stderr)
        return 2
    machines: list[emulators.Emulator] = [emulators.Trapgate(), *(make() for make in emulators.peers())]
    if arguments.without_kvm:
        machines[-1].missing = NOT_MEASURED
    guests: list[emulators.Emulator] = [emulators.Virtual(technique) for technique in TECHNIQUES]
    found = {kernel.name: run(kernel, [*machines, *guests]) for kernel in chosen}
    text = report(chosen, machines, found, guests)
    if arguments.kernel or arguments.show:
        print(text)
    else:
        TABLE.write_text(text)
    return 0


def run(kernel: kernels.Kernel, machines: list[emulators.Emulator]) -> dict[str, dict[str, results.Outcome]]:
    """Outcomes by emulator and check."""
    print(kernel.name, file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = kernels.assemble(kernel, folder)
        return {
            machine.name: results.run_kernel(kernel.checks, image, machine, folder)
            for machine in machines
            if not machine.missing
        }


def report(
    chosen: list[kernels.Kernel],
    machines: list[emulators.Emulator],
    found: dict[str, dict[str, dict[str, results.Outcome]]],
    guests: list[emulators.Emulator],
) -> str:
    """The document."""
    lines = [HEAD, "## What ran", "", "| column | what | pass | of |", "|---|---|---|---|"]
    lines += [count(machine, found) for machine in machines]
    lines += [KVM_NOTE, *virtual_machines(found, guests), "## Known gaps of trapgate", ""]
    lines += [f"- {name}: {why}" for name, why in notes.KNOWN_GAPS.items()] or ["None of the checks."]
    for kernel in chosen:
        lines += ["", f"## {kernel.title}", "", f"`{kernel.path.name}`", ""]
        names = [machine.name for machine in machines]
        lines += ["| check | manual | " + " | ".join(names) + " | note |", "|---" * (len(names) + 3) + "|"]
        lines += [row(check, names, found[kernel.name]) for check in kernel.checks]
    return "\n".join(lines) + "\n"


def count(machine: emulators.Emulator, found: dict[str, dict[str, dict[str, results.Outcome]]]) -> str:
    """A machine's row: how many checks pass."""
    if machine.missing:
        return f"| {machine.name} | {machine.missing} | | |"
    outcomes = [o for by_name in found.values() for o in by_name.get(machine.name, {}).values()]
    passed = sum(o.status == results.PASS for o in outcomes)
    return f"| {machine.name} | {machine.version()} | {passed} | {len(outcomes)} |"


def virtual_machines(
    found: dict[str, dict[str, dict[str, results.Outcome]]], guests: list[emulators.Emulator]
) -> list[str]:
    """The section on guests of trapgate's own hypervisor: counts, and what does not pass."""
    lines = ["## Virtual machines", "", VIRTUAL, "| technique | what | pass | of |", "|---|---|---|---|"]
    lines += [count(guest, found) for guest in guests] + [""]
    differing: dict[str, list[str]] = {}
    for by_name in found.values():
        for guest in guests:
            for name, outcome in by_name.get(guest.name, {}).items():
                if outcome.status != results.PASS:
                    differing.setdefault(name, []).append(guest.name)
    known = {name: why for table in notes.TECHNIQUE_DIFFERENCES.values() for name, why in table.items()}
    for name, where in differing.items():
        lines.append(f"- {name} ({', '.join(where)}): {known.get(name, 'not explained')}")
    return [*lines, ""] if differing else lines


def row(check: kernels.Check, names: list[str], found: dict[str, dict[str, results.Outcome]]) -> str:
    """One line of a kernel's table."""
    cells, details = [], []
    for name in names:
        outcome = found.get(name, {}).get(check.name)
        cells.append(outcome.status if outcome else "")
        if outcome and outcome.status in (results.FAIL, results.SKIP, results.STOPPED):
            why = notes.difference(check.name) if name == "QEMU" else ""
            if why or outcome.detail:
                details.append(f"{name}: {why or outcome.detail}")
    return f"| {check.name} | {check.section} | " + " | ".join(cells) + f" | {'; '.join(details)} |"


if __name__ == "__main__":
    sys.exit(main())
