"""What guests have written to their disks: the parts of an overlay. The image under it stays where it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trapgate.devices.disks.memory import MemoryMedium
from trapgate.devices.disks.overlay import Overlay
from trapgate.lab.snapshots.errors import CannotTake, SnapshotOfAnother
from trapgate.machine.block import BlockBackend


@dataclass(frozen=True, slots=True)
class MediumState:
    """`clusters` by number: when each was written (0: not known), and its bytes. `base` says which image it is."""

    name: str
    base: dict[str, Any]
    clusters: dict[int, tuple[int, bytes]] = field(repr=False)


def check_medium(medium: BlockBackend) -> None:
    """Raises CannotTake for a medium that changes and that cannot be taken back."""
    if not medium.read_only and not isinstance(medium, Overlay | MemoryMedium):
        raise CannotTake(f"one that writes into {medium.name}", "run it without --write")


def take_medium(medium: BlockBackend, like: MediumState | None) -> MediumState:
    """What was written so far; what is as in `like` is shared with it. Raises BlockError, CannotTake."""
    check_medium(medium)
    known = like.clusters if like is not None else {}
    clusters: dict[int, tuple[int, bytes]] = {}
    if isinstance(medium, Overlay):
        for number, stamp in medium.stamps().items():
            old = known.get(number)
            shared = old is not None and old[0] == stamp
            clusters[number] = old if shared and old is not None else (stamp, medium.cluster(number))
    elif isinstance(medium, MemoryMedium) and not medium.read_only:
        content, old = bytes(medium.data), known.get(0)
        clusters[0] = old if old is not None and old[1] == content else (0, content)
    return MediumState(medium.name, image_of(medium), clusters)


def image_of(medium: BlockBackend) -> dict[str, Any]:
    """What tells the image under `medium` from others."""
    if isinstance(medium, Overlay):
        return image_of(medium.base)
    changed = getattr(medium, "changed", None)
    return {"size": medium.size, "changed": None if changed is None else changed()}


def check_image(medium: BlockBackend, state: MediumState) -> None:
    """Raises SnapshotOfAnother when the image under `medium` is not the one that it was, as far as can be told."""
    now = image_of(medium)
    for name, unit in (("size", "bytes"), ("changed", "ns since 1970, when it was written last")):
        if name in state.base and now[name] != state.base[name]:
            wanted, got = (f"{value} {unit}" for value in (now[name], state.base[name]))
            raise SnapshotOfAnother(f"the image {medium.name} of", wanted, got)


def put_medium(medium: BlockBackend, state: MediumState) -> None:
    """Make it as it was. Raises BlockError; the medium has not changed then."""
    if isinstance(medium, Overlay):
        medium.replace(state.clusters)
    elif isinstance(medium, MemoryMedium) and not medium.read_only:
        medium.data[:] = state.clusters[0][1]
