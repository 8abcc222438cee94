"""System instructions, faults and plain forms on KVM: registers, descriptors and all of memory, delivery included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from trapgate.engine.handlers import HandlerStore

from .kvm import known, probes
from .kvm.cases import ENDLESS, HALTED, OUTSIDE, UNIMPLEMENTED, SystemCase, SystemOutcome
from .kvm.device import Kvm, KvmUnavailable
from .kvm.families import FAMILIES, PLAIN, make_plain_case, make_system_case
from .kvm.judge import compare, describe
from .kvm.known import Difference
from .kvm.machine import KvmMachine
from .kvm.ours import TrapgateMachine
from .kvm.world import MEMORY_SIZE, MODES, PAGE, Mode, initial_state

pytestmark = pytest.mark.xdist_group("oracle")
#: Cases of each family by default.
_DEFAULT = 12
_SHOWN = 6


@pytest.fixture(scope="module", autouse=True)
def kvm_opens() -> None:
    """Skips where there is no KVM."""
    try:
        Kvm(MEMORY_SIZE).close()
    except (KvmUnavailable, OSError) as error:
        pytest.skip(f"this needs KVM: {error}")


@pytest.fixture
def machine(mode: Mode) -> Iterator[KvmMachine]:
    """A virtual machine for the test's mode."""
    made = KvmMachine(mode)
    yield made
    made.close()


def _cases(mode: Mode, families: list[str], wanted: int, first: int) -> Iterator[SystemCase]:
    """The families in turn, so many cases altogether."""
    for number in range(wanted):
        family = families[number % len(families)]
        seed = first + number // len(families)
        yield make_plain_case(mode, seed) if family == "plain" else make_system_case(mode, family, seed)


@pytest.mark.parametrize("mode", MODES.values(), ids=list(MODES))
def test_cases(pytestconfig: pytest.Config, machine: KvmMachine, handlers: HandlerStore, mode: Mode) -> None:
    unjudged = probes.unjudged(machine, mode)
    families = [name for name in FAMILIES if name not in unjudged]
    if not families:
        pytest.skip(f"this KVM does not do as the manual says: {next(iter(unjudged.values()))}")
    if mode.name in PLAIN:
        families.append("plain")
    wanted = pytestconfig.getoption("--oracle-cases", default=0)
    first = pytestconfig.getoption("--oracle-seed", default=0) if wanted else 0
    ours = TrapgateMachine(mode, handlers)
    counts: Counter[str] = Counter()
    found: dict[str, str] = {}
    for case in _cases(mode, families, wanted or _DEFAULT * len(families), first):
        expected = machine.run_one(case)
        if expected.ended in (OUTSIDE, UNIMPLEMENTED, ENDLESS):
            counts[f"KVM: {expected.ended}"] += 1
            continue
        got = ours.run_one(case)
        lines, difference = compare(case, expected, got)
        if difference is None:
            counts["the same"] += 1
        elif why := known.explained(difference):
            counts[f"known: {why}"] += 1
        else:
            counts["unexplained"] += 1
            found.setdefault(f"{case.family} {difference.mnemonic}", describe(case, expected, got, lines))
    print(f"{mode.name}: not judged: {', '.join(sorted(unjudged)) or 'none'}")
    for name, count in counts.most_common():
        print(f"  {count:8} {name}")
    assert not found, f"{counts['unexplained']} cases differ\n\n" + "\n\n".join(list(found.values())[:_SHOWN])


def _made(mode: str, code: str, **registers: int) -> SystemCase:
    """A case as the plain families make them: `code` with these registers."""
    case = SystemCase(MODES[mode], bytes.fromhex(code), initial_state(MODES[mode]), family="plain")
    for name, value in registers.items():
        case.state.gpr[("rax", "rcx", "rdx", "rbx", "rsp").index(name)] = value
    return case


#: Cases that a long run could not explain, each because the table of KVM's faults was too narrow.
ONCE_UNEXPLAINED = [
    make_system_case(MODES["compat32"], "tables", 2001445),  # LIDT with 16 bits, six bytes into a missing page
    _made("real", "0f32", rcx=0),  # RDMSR of a Pentium's registers
    _made("protected32", "0f32", rcx=1),
    _made("real", "0f00d4", rsp=1),  # #UD whose frame goes around the end of the stack
]


@pytest.mark.parametrize("case", ONCE_UNEXPLAINED, ids=lambda case: f"{case.mode.name} {case.code.hex()}")
def test_a_case_once_unexplained(handlers: HandlerStore, case: SystemCase) -> None:
    machine = KvmMachine(case.mode)
    try:
        expected = machine.run_one(case)
    finally:
        machine.close()
    _, difference = compare(case, expected, TrapgateMachine(case.mode, handlers).run_one(case))
    assert difference is None or known.explained(difference)


def _outcome(**changes: int) -> SystemOutcome:
    state = initial_state(MODES["real"])
    state.rip = state.rip + 2
    for name, value in changes.items():
        setattr(state, name, value)
    return SystemOutcome(HALTED, state, {})


@pytest.mark.parametrize("field", ["rip", "rflags", "cr0", "cr2", "cr4", "efer"])
def test_a_difference_is_seen_and_not_explained_away(field: str) -> None:
    case = SystemCase(MODES["real"], b"\x90", initial_state(MODES["real"]))
    same = _outcome()
    assert compare(case, same, _outcome()) == ([], None)
    lines, difference = compare(case, same, _outcome(**{field: 0x1234_5678}))
    assert lines == [f"{field}: wanted {getattr(same.state, field):#x}, got 0x12345678"]
    assert isinstance(difference, Difference)
    assert known.explained(difference) == ""


def test_a_difference_in_memory_is_seen() -> None:
    case = SystemCase(MODES["real"], b"\x90", initial_state(MODES["real"]))
    wanted, got = _outcome(), _outcome()
    wanted.pages = {0xA000: bytes(PAGE)}
    got.pages = {0xA000: bytes(16) + b"\x01" + bytes(PAGE - 17)}
    assert compare(case, wanted, got)[0] == ["memory at a010: wanted 00, got 01"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_case(family: str) -> None:
    one, other = (make_system_case(MODES["protected32"], family, 7) for _ in range(2))
    assert one == other
    assert one != make_system_case(MODES["protected32"], family, 8)
