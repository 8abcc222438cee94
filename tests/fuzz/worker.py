"""`python -m fuzz.worker FAMILY SEED FIRST COUNT PROGRESS`: run cases, and say in a file how far it is.

The file PROGRESS has two 64-bit words: the case that runs, and cases that are done. Whoever started this can tell from
it which case ended the process or does not end.
"""

from __future__ import annotations

import collections
import faulthandler
import json
import mmap
import random
import sys
import traceback

from trapgate.engine.handlers import HandlerStore

from .families import FAMILIES


def main(family: str, seed: str, first: str, count: str, progress: str) -> int:
    """Run the cases; 1 after the first that fails, which is reported on standard error."""
    faulthandler.enable()
    with open(progress, "r+b") as file:
        words = memoryview(mmap.mmap(file.fileno(), 16)).cast("Q")
    runner = FAMILIES[family](HandlerStore())
    ends: collections.Counter[str] = collections.Counter()
    begin = int(first)
    for index in range(begin, begin + int(count)):
        words[0] = index
        try:
            ends[runner.run(random.Random(f"{family} {seed} {index}"), index)] += 1
        except Exception:
            traceback.print_exc()
            print(f"\n{runner.describe(index)}", file=sys.stderr)
            return 1
        words[1] = index - begin + 1
    print(json.dumps(ends))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
