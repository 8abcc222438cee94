"""The host's frames of 4 KB: which are free, and who owns the others.

One byte a frame names its owner, and the searches are `bytearray.find`, so a search of a whole gigabyte costs some
microseconds. Single frames are taken from the top of memory downwards and runs from the bottom upwards, so that tables,
which come and go one by one, do not break up the room for runs.
"""

from __future__ import annotations

from trapgate.machine.memory import PhysicalMemory
from trapgate.machine.ram import PAGE
from trapgate.vmm.memory.errors import FrameNotOwned, OutOfHostMemory

#: Frames in a run of 2 MB.
RUN = 512
FREE = 0
_HOLE = 1
_OWNERS = 256


class FrameAllocator:
    """Gives out frames of the host's RAM. Addresses are host-physical, in bytes.

    Frame 0 is never given out: tables use 0 for "nothing here". Frames come zeroed; for that the
    memory must be as new when the allocator is made.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self.memory = memory
        self._owner = bytearray([_HOLE]) * memory.page_count
        for ram in memory.ranges():
            self._owner[ram.start // PAGE : ram.stop // PAGE] = bytes(len(ram) // PAGE)
        self._owner[0] = _HOLE
        self._names = ["nobody", "the host"]
        self.free_frames = memory.size // PAGE - 1
        #: No frame at or above these is free: where searches for single frames begin, for all frames and by limit.
        self._tops: dict[int, int] = {memory.page_count: memory.page_count}
        self._clean = bytearray(b"\1") * memory.page_count  # never given out before, so still zero

    def _number(self, owner: str) -> int:
        if owner not in self._names:
            if len(self._names) == _OWNERS:
                raise ValueError(f"wanted at most {_OWNERS - 2} owners of host frames, got another, {owner}: share one")
            self._names.append(owner)
        return self._names.index(owner)

    def allocate(self, owner: str, below: int | None = None) -> int:
        """One frame's address; below host-physical `below` (a multiple of 4096) if given. Raises OutOfHostMemory."""
        count = self.memory.page_count
        limit = count if below is None else min(below // PAGE, count)
        frame = self._owner.rfind(FREE, 0, self._tops.get(limit, limit))
        if frame < 0:
            raise OutOfHostMemory(owner, "a frame" if below is None else f"a frame below {below:#x}", self.free_frames)
        self._tops[limit] = frame
        self._take(frame, 1, owner)
        return frame * PAGE

    def allocate_run(self, owner: str, frames: int, align: int | None = None) -> int:
        """The address of `frames` frames in a row, a multiple of `align` frames (default: as many as the run has).

        Raises OutOfHostMemory when there is no such run.
        """
        align = frames if align is None else align
        wanted = bytes(frames)
        start = self._owner.find(wanted)
        while start >= 0 and start % align:
            start = self._owner.find(wanted, start + align - start % align)
        if start < 0:
            what = f"{frames} frames in a row at a multiple of {align * PAGE:#x}"
            raise OutOfHostMemory(owner, what, self.free_frames)
        self._take(start, frames, owner)
        return start * PAGE

    def _take(self, first: int, frames: int, owner: str) -> None:
        end = first + frames
        self._owner[first:end] = bytes([self._number(owner)]) * frames
        self.free_frames -= frames
        clean = self._clean
        if 0 in clean[first:end]:
            for frame in range(first, end):
                if not clean[frame]:
                    self.memory.write(frame * PAGE, bytes(PAGE))
        clean[first:end] = bytes(frames)

    def free(self, owner: str, address: int, frames: int = 1) -> None:
        """Give back `frames` frames from `address` on. Raises FrameNotOwned, and frees none, if one is another's."""
        first = address // PAGE
        number = self._number(owner)
        for frame in range(first, first + frames):
            if self._owner[frame] != number:
                raise FrameNotOwned(frame * PAGE, owner, self._names[self._owner[frame]])
        self._owner[first : first + frames] = bytes(frames)
        self.free_frames += frames
        for limit, top in self._tops.items():
            self._tops[limit] = max(top, min(limit, first + frames))

    def owner(self, address: int) -> str:
        """Who owns the frame at host-physical `address`: "nobody" if it is free, "the host" if it is no frame."""
        return self._names[self._owner[address // PAGE]]

    def owned(self, owner: str) -> int:
        """How many frames `owner` has."""
        return self._owner.count(self._names.index(owner)) if owner in self._names else 0
