"""The process that compiles regions: `python -m trapgate.engine.hot.worker`.

It reads texts from its standard input and writes object files to its standard output, each behind its length (u32).
When LLVM fails an assertion on some region, this process ends, and not the user's run.
"""

from __future__ import annotations

import struct
import sys
from typing import BinaryIO

from trapgate.engine.hot.passes import RegionCompiler

LENGTH = struct.Struct("<I")


def serve(source: BinaryIO, destination: BinaryIO) -> None:
    """Compile what comes until the other side has gone."""
    compiler = RegionCompiler()
    while len(head := source.read(LENGTH.size)) == LENGTH.size:
        text = source.read(LENGTH.unpack(head)[0])
        code = compiler.compile(text.decode())
        destination.write(LENGTH.pack(len(code)) + code)
        destination.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
