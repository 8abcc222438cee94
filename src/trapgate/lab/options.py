"""What a run is made of, as the user asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trapgate.arch.costs import DEFAULT_COSTS

#: QEMU's default of 128 MB is more than any kernel here needs, but userland that sorts or compresses wants more.
DEFAULT_MEMORY = 256 << 20
DEFAULT_PROCESSOR = "opteron-2007"
#: The technique of no hypervisor; the others are those of vmm.techniques.TECHNIQUES.
BARE = "bare"
EMBEDDED = "embedded"
DEBIAN = "debian"
MEMTEST = "memtest86+"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """One run's inputs: the same options on the same files give the same run.

    `guest` is `embedded`, `debian`, `memtest86+` or the path of an image; None with `kernel`. `memory_size` is in
    bytes. `command` is what a guest that has a shell is to run instead of the shell.
    """

    guest: str | None = EMBEDDED
    kernel: Path | None = None
    initrd: Path | None = None
    append: str | None = None
    memory_size: int = DEFAULT_MEMORY
    processor: str = DEFAULT_PROCESSOR
    max_instructions: int | None = None
    command: tuple[str, ...] | None = None
    technique: str = BARE
    costs: str = DEFAULT_COSTS
