"""Writes src/trapgate/engine/seeds.txt: the handlers that usual guests need, built in one go on a first run.

Run some guests with an empty folder in TRAPGATE_CACHE, then `python scripts/seeds.py` with the same TRAPGATE_CACHE.
"""

from __future__ import annotations

from pathlib import Path

from trapgate.engine.handlers import HandlerStore

TARGET = Path(__file__).resolve().parent.parent / "src" / "trapgate" / "engine" / "seeds.txt"
HEADER = "# Keys of handlers (isa/form.py, engine/handlers.py). Made by scripts/seeds.py.\n"


def main() -> None:
    """Write the keys of every handler in the cache, sorted."""
    keys = sorted(HandlerStore().keys())
    TARGET.write_text(HEADER + "".join(f"{key}\n" for key in keys))
    print(f"{len(keys)} keys in {TARGET.name}")


if __name__ == "__main__":
    main()
