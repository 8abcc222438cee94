"""INT 19h, which starts the boot sector, and INT 18h, which has nothing more to start.

Source: BIOS Boot Specification 1.01, sections 6.4 (INT 18h) and 6.5 (INT 19h); IBM PC AT Technical Reference, INT 19h.
"""

from __future__ import annotations

from dataclasses import dataclass

from trapgate.firmware.bios import rom
from trapgate.firmware.bios.call import CS, Call
from trapgate.firmware.bios.host import Host
from trapgate.firmware.bios.video import Video

FAILED = "\nNothing is left to boot.\n"


@dataclass(frozen=True)
class BootCode:
    """What the boot drive's first code is, where it goes, and the drive's number for DL."""

    data: bytes
    address: int
    drive: int

    @property
    def segment(self) -> int:
        """CS at its start: 0 below 64 KB, so that a boot sector runs at 0000:7C00."""
        return 0 if self.address < 0x10000 else self.address >> 4

    @property
    def offset(self) -> int:
        """IP at its start."""
        return self.address - (self.segment << 4)


class Bootstrap:
    """Both services."""

    def __init__(self, host: Host, video: Video, code: BootCode) -> None:
        self._host = host
        self._video = video
        self._code = code

    def boot(self, call: Call) -> None:
        """INT 19h: load the boot code again and go there; memory stays as it is otherwise."""
        code = self._code
        self._host.memory.write(code.address, code.data)
        call.dl = code.drive
        call.return_address = (code.segment, code.offset)

    def fail(self, call: Call) -> None:
        """INT 18h: say so, and stop."""
        self._video.write_text(FAILED)
        self._host.note("int 18h: nothing is left to boot, the processor is halted")
        base: int = call.processor.segments[CS].base
        call.processor.jump(rom.ROM_BASE + rom.HALT - base)
