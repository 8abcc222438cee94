"""Random code on a whole machine, with all devices behind its ports; tests/fuzz has the processor alone."""

from __future__ import annotations

import random

from fuzz.random_code import REASONS, code
from trapgate.boards.machine import BareMachine, MachineConfig
from trapgate.engine.handlers import HandlerStore
from trapgate.firmware.raw import RawImage
from trapgate.machine.console import NullConsole
from trapgate.machine.control import UserQuit

CASES = 25
#: Modelled cycles after which a case is ended: devices may keep a halted processor waiting.
MOST_CYCLES = 4_000_000


def test_random_code_on_a_whole_machine(handlers: HandlerStore) -> None:
    """With all devices behind its ports."""
    for seed in range(CASES):
        choose = random.Random(f"machine {seed}")
        machine = BareMachine(MachineConfig(memory_size=4 << 20), NullConsole(), handlers)
        body = b"".join(
            choose.choice(
                (
                    b"\xb0" + choose.randbytes(1) + b"\xe6" + choose.randbytes(1),  # mov al, n; out n, al
                    b"\xe4" + choose.randbytes(1),  # in al, n
                    b"\xb8" + choose.randbytes(2) + b"\xe7" + choose.randbytes(1),  # mov ax, n; out n, ax
                    b"\xba" + choose.choice((b"\xf8\x03", b"\xf9\x03", b"\xfb\x03", b"\x00\x06", b"\xf8\x0c"))
                    + choose.choice((b"\xee", b"\xec", b"\xef", b"\xed")),  # mov dx, n; an access
                    code(choose, 6),
                    b"\xfb",
                )
            )
            for _ in range(60)
        )  # fmt: skip
        machine.load(RawImage(body + b"\xeb\xfe"))
        clock, control = machine.clock, machine.control
        clock.schedule(MOST_CYCLES, lambda control=control: control.stop(UserQuit()))  # type: ignore[misc]
        try:
            stopped = machine.run(20_000)
        except Exception as error:
            raise AssertionError(f"seed {seed}, rip {machine.processor.rip:#x}: {error!r}") from error
        assert stopped.reason in REASONS
