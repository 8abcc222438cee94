"""The embedded guests, ready to load; their sources are in `guests/` of the repository.

- `trapgate-guest`: a multiboot 1 kernel (a.out kludge) that tours the processor's modes, then times one-operation
  loops. Command line: `tests`, `loops` or `all` (default), and `loops=PERCENT`.
- `bench`: a multiboot 1 kernel for benchmarks. Command line: `bench=NAME n=COUNT`.
- `hypervisor`: a multiboot 1 kernel that switches AMD-V on, runs guests of its own, and checks every #VMEXIT.
- `io`: a multiboot 1 kernel with drivers for emulated and paravirtual disks and network cards. Command line: nothing,
  or `io=NAME n=COUNT`.
- `real-loop`: 512 bytes for 0000:7C00 in real mode.

All end through isa-debug-exit at port F4h: value 0 for success, 1 for failure.
"""

from __future__ import annotations

from importlib.resources import files

from trapgate.machine.errors import MachineError

NAMES = ("trapgate-guest", "real-loop", "bench", "hypervisor", "io")


class UnknownGuest(MachineError, LookupError):
    """No embedded guest has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"wanted an embedded guest, got {name!r}; there are {', '.join(NAMES)}: choose one of them")
        self.name = name


def image(name: str) -> bytes:
    """The bytes of the embedded guest `name` (one of `NAMES`); raises UnknownGuest."""
    if name not in NAMES:
        raise UnknownGuest(name)
    return files(__name__).joinpath(f"{name}.bin").read_bytes()
