"""Makes a file of symbols for gdb out of a kernel's /proc/kallsyms:

trapgate run debian --append nokaslr -- cat /proc/kallsyms | python scripts/kernel_symbols.py kernel.elf
"""

from __future__ import annotations

import sys
from pathlib import Path

from trapgate.debug.symbols import symbol_file
from trapgate.machine.errors import MachineError


def main() -> int:
    """Read standard input, write the file that is named."""
    if len(sys.argv) != 2:
        print("usage: kernel_symbols.py FILE < KALLSYMS", file=sys.stderr)
        return 2
    try:
        data = symbol_file(sys.stdin)
    except MachineError as error:
        print(f"kernel_symbols.py: {error}", file=sys.stderr)
        return 2
    Path(sys.argv[1]).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
