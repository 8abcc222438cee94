"""Exit statuses of the `trapgate` command, documented in docs/cli.md.

isa-debug-exit gives odd statuses, as in QEMU, so those that a run has of its own are even, except for 3 and 141,
which are fixed by custom.
"""

from __future__ import annotations

SUCCESS = 0
#: `trapgate doctor` found that trapgate cannot run on this host.
UNFIT_HOST = 1
#: `trapgate compare` has seen a guest behave differently, or could not run it, under some technique; `trapgate
#: lockstep`, with the hot tier.
DIFFERENT = 1
#: Something that the user gave is wrong: an option, a file, a size.
BAD_INPUT = 2
#: The guest's processor shut down on a triple fault.
TRIPLE_FAULT = 3
#: The guest needs an instruction or a device feature that trapgate does not have yet.
UNIMPLEMENTED = 4
#: An internal error of trapgate (EX_SOFTWARE of sysexits.h).
INTERNAL_ERROR = 70
#: --max-instructions was reached first (as timeout(1) does with time).
LIMIT_REACHED = 124
#: Ctrl-C (128 + SIGINT).
INTERRUPTED = 130
#: The reader of the console went away (128 + SIGPIPE).
BROKEN_PIPE = 141
