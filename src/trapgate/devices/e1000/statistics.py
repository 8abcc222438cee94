"""The card's own counters, cleared by reading.

Source: SDM 13.7.
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.devices.e1000.registers import FIRST_STATISTIC, LAST_STATISTIC
from trapgate.machine.device import PlainState

MPC, ROC, RNBC, RLEC = 0x4010, 0x40AC, 0x40A0, 0x4040
PRC64, GPRC, BPRC, MPRC, GORC, TOR, TPR = 0x405C, 0x4074, 0x4078, 0x407C, 0x4088, 0x40C0, 0x40D0
PTC64, GPTC, MPTC, BPTC, GOTC, TOT, TPT = 0x40D8, 0x4080, 0x40F0, 0x40F4, 0x4090, 0x40C8, 0x40D4
TSCTC = 0x40F8
#: Counters of 64 bits, by the offset of their low halves; reading the high half clears both.
WIDE = (GORC, GOTC, TOR, TOT)
#: Bytes with the FCS up to which a packet is counted by the first, second ... counter of PRC64 or PTC64 and following.
SIZES = (64, 127, 255, 511, 1023)
FCS = 4
BROADCAST = b"\xff" * 6


class Statistics(PlainState):
    """Counters by (offset - 4000h) / 4."""

    STATE: ClassVar[tuple[str, ...]] = ("counters",)

    def __init__(self) -> None:
        self.name = "e1000-statistics"
        self.counters = [0] * ((LAST_STATISTIC - FIRST_STATISTIC) // 4 + 1)

    def reset(self) -> None:
        """All 0."""
        self.counters = [0] * len(self.counters)

    def read(self, offset: int) -> int:
        """The counter at `offset`, which is 0 afterwards; it sticks at its largest value (13.7)."""
        if offset - 4 in WIDE:
            value = self.counters[(offset - 4 - FIRST_STATISTIC) // 4] >> 32
            self.counters[(offset - 4 - FIRST_STATISTIC) // 4] = 0
            return min(value, 0xFFFF_FFFF)
        index = (offset - FIRST_STATISTIC) // 4
        value = self.counters[index]
        if offset in WIDE:
            return value & 0xFFFF_FFFF
        self.counters[index] = 0
        return min(value, 0xFFFF_FFFF)

    def add(self, offset: int, count: int = 1) -> None:
        """Count."""
        self.counters[(offset - FIRST_STATISTIC) // 4] += count

    def received(self, frame: bytes) -> None:
        """A good packet that passed the filters."""
        self._packet(frame, PRC64, GPRC, GORC, BPRC, MPRC)

    def on_wire(self, frame: bytes) -> None:
        """A packet that came in, whatever becomes of it."""
        self.add(TPR)
        self.add(TOR, len(frame) + FCS)

    def sent(self, frame: bytes) -> None:
        """A packet that went out."""
        self._packet(frame, PTC64, GPTC, GOTC, BPTC, MPTC)
        self.add(TPT)
        self.add(TOT, len(frame) + FCS)

    def _packet(self, frame: bytes, sizes: int, good: int, octets: int, broadcast: int, multicast: int) -> None:
        length = len(frame) + FCS
        self.add(sizes + 4 * sum(length > size for size in SIZES))
        self.add(good)
        self.add(octets, length)
        if frame[:6] == BROADCAST:
            self.add(broadcast)
        elif frame[0] & 1:
            self.add(multicast)
