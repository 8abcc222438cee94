"""A world switch and back: VMRUN, the guest's VMMCALL, #VMEXIT, the hypervisor. CPU time of one round trip.

- `hypervisor in a guest`: the `hypervisor` image goes round by itself (`trips=N`), beside QEMU's TCG on the same image.
- `hypercall`: a guest of trapgate's own hypervisor makes hypercall 0: the handler is Python.
- `processor`: the same without the hypervisor's loop: VMRUN until #VMEXIT, and only RIP is moved on.

Times of processes are those of a long run less those of a short one, by the number of round trips between them.
"""

from __future__ import annotations

import statistics
import struct
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import CONSOLE, QEMU, TRAPGATE, BenchmarkFailed, parser, quiet, run, write_json
from rich.table import Table

from trapgate import guests
from trapgate.arch import vmcb
from trapgate.arch.cpuid import PROFILES
from trapgate.boards.host import HostMachine
from trapgate.engine.handlers import HandlerStore

SHORT = 10
#: isa-debug-exit's statuses of the image: all checks held; one failed, as on QEMU 7.2 (guests/README.md).
STATUSES = (0, 1, 3)
_IOPM, _MSRPM, _VMCB, _CODE = 0x10000, 0x14000, 0x18000, 0x1000


def seconds(command: Sequence[str], wanted: bytes = b"") -> float:
    """CPU seconds of a process that must have done its work."""
    done = run(command)
    if done.status not in STATUSES or wanted not in done.output:
        raise BenchmarkFailed(command, f"status {STATUSES} and {wanted!r}", done)
    return done.seconds


def hypercalls(count: int) -> bytes:
    """A boot sector that makes hypercall 0 so often, and ends the run."""
    # mov ecx, count; again: xor eax, eax; vmmcall; dec ecx; jnz again; mov al, 0; out 0f4h, al; hlt
    code = b"\x66\xb9" + struct.pack("<I", count) + bytes.fromhex("6631c00f01d9664975f6b000e6f4f4")
    return code.ljust(510, b"\0") + b"\x55\xaa"


def processor_alone(trips: int) -> float:
    """CPU seconds of one VMRUN until #VMEXIT: real mode, VMMCALL again and again."""
    host = HostMachine(PROFILES["opteron-2007"], 1 << 20, HandlerStore())
    memory = host.memory
    memory.write(_CODE, bytes.fromhex("0f01d9ebfb"))  # again: vmmcall; jmp again
    for segment in (vmcb.ES, vmcb.CS, vmcb.SS, vmcb.DS):
        memory.write(_VMCB + segment, struct.pack("<HHIQ", 0, 0x9B if segment == vmcb.CS else 0x93, 0xFFFF, 0))
    for place, value in (
        (vmcb.EFER, 1 << 12), (vmcb.CR0, 0x10), (vmcb.DR6, 0xFFFF_0FF0), (vmcb.DR7, 0x400), (vmcb.RFLAGS, 2),
        (vmcb.RIP, _CODE), (vmcb.IOPM_BASE_PA, _IOPM), (vmcb.MSRPM_BASE_PA, _MSRPM), (vmcb.ASID, 1),
    ):  # fmt: skip
        memory.write_u64(_VMCB + place, value)
    memory.write_u32(_VMCB + vmcb.INTERCEPT_MISC2, vmcb.misc2("vmrun", "vmmcall"))
    words = memory.view[_VMCB : _VMCB + vmcb.SIZE].cast("Q")
    started = 0.0
    for turn in range(trips + SHORT):
        if turn == SHORT:
            started = time.process_time()
        host.run(_VMCB)
        words[vmcb.RIP >> 3] = words[vmcb.NEXT_RIP >> 3]
    taken = time.process_time() - started
    if host.processor.exit_counts != {vmcb.EXIT["vmmcall"]: trips + SHORT}:
        raise SystemExit(f"wanted {trips + SHORT} exits by VMMCALL, got {host.processor.exit_counts}")
    return taken / trips


def main() -> None:
    """Run and report."""
    options = parser(__doc__ or "", runs=5)
    options.add_argument("--trips", type=int, default=100_000, help="round trips of a run (default 100000)")
    chosen = options.parse_args()
    is_quiet = quiet()
    trips: int = chosen.trips
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "hypervisor"
        image.write_bytes(guests.image("hypervisor"))
        sectors = {}
        for count in (SHORT, SHORT + trips):
            sectors[count] = Path(folder) / f"calls-{count}"
            sectors[count].write_bytes(hypercalls(count))

        def in_guest(count: int) -> float:
            return seconds([*TRAPGATE, "run", "hypervisor", "--append", f"trips={count}"], b"VMRUN and VMMCALL")

        def on_qemu(count: int) -> float:
            return seconds(
                [QEMU or "", "-accel", "tcg", "-cpu", "qemu64,+svm,+npt", "-m", "32", "-nographic", "-no-reboot",
                 "-kernel", str(image), "-append", f"trips={count}",
                 "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"],
                b"VMRUN and VMMCALL",
            )  # fmt: skip

        def by_hypercall(count: int) -> float:
            return seconds([*TRAPGATE, "run", str(sectors[count]), "--technique", "nested-tagged"])

        kinds = {"hypervisor in a guest": in_guest, "hypercall": by_hypercall}
        if QEMU:
            kinds["QEMU, hypervisor in a guest"] = on_qemu
        for turn in range(-1, chosen.runs):
            for name, measure in kinds.items():
                taken = (measure(SHORT + trips) - measure(SHORT)) / trips
                if turn >= 0:
                    rows.setdefault(name, []).append(taken)
            alone = processor_alone(trips)
            if turn >= 0:
                rows.setdefault("processor", []).append(alone)
    table = Table(title="a world switch and back (CPU time)")
    table.add_column("who")
    table.add_column("median, us", justify="right")
    table.add_column("least, us", justify="right")
    for name, values in rows.items():
        table.add_row(name, f"{statistics.median(values) * 1e6:.1f}", f"{min(values) * 1e6:.1f}")
    CONSOLE.print(table)
    write_json(chosen.json, {"quiet": is_quiet, "cpu_seconds": rows})


if __name__ == "__main__":
    main()
