"""What each packet asks for, and the answer (E.2, "Packets"; E.3, "Stop Reply Packets"; E.4, "General Query Packets").

There is one processor, hence one thread, numbered 1. An answer of b"" says that a packet is not known.
"""

from __future__ import annotations

from collections.abc import Callable

from trapgate.debug.errors import GuestUnreachable
from trapgate.debug.gdb.packets import PACKET_SIZE, escape
from trapgate.debug.gdb.registers import RegisterFile, description
from trapgate.debug.session import Session
from trapgate.debug.stops import Resume, Stop
from trapgate.debug.watching import MOST_POINTS, Points, Watch, WatchKind

OK = b"OK"
#: EINVAL, EFAULT, ENOSPC: gdb shows the number.
BAD, UNREACHABLE, TOO_MANY = b"E16", b"E0e", b"E1c"
#: Signals as gdb numbers them.
_INTERRUPT, _ILLEGAL, _TRAP, _SEGMENTATION = 2, 4, 5, 11
_SIGNALS = {"interrupt": _INTERRUPT, "shutdown": _SEGMENTATION, "unimplemented": _ILLEGAL}
_WATCH_KINDS: dict[int, WatchKind] = {2: "write", 3: "read", 4: "access"}
_WATCH_NAMES = {"write": "watch", "read": "rwatch", "access": "awatch"}
#: Bytes of a watchpoint.
LONGEST_WATCH = 1 << 20

#: Bytes of text that one packet has the client print.
_PRINT_SIZE = 4096

Answer = bytes | Resume


class Commands:
    """Answers packets about one guest. `acknowledges` and `leaves` are the client's wishes for its connection."""

    def __init__(self, session: Session, points: Points, show: Callable[[bytes], None]) -> None:
        """`show` has the client print something, before the answer."""
        self._print = show
        self._session, self._guest, self._points = session, session.guest, points
        self._wide = "LM" in session.guest.processor.profile.flags
        self._registers = RegisterFile(self._wide)
        self._description = description(self._wide).encode()
        self._packets: dict[bytes, Callable[[bytes], Answer]] = {
            b"?": lambda _: self.describe(self.last_stop), b"g": self._read_registers, b"G": self._write_registers,
            b"p": self._read_register, b"P": self._write_register, b"m": self._read_memory, b"M": self._write_memory,
            b"X": self._write_binary, b"c": self._continue, b"C": self._continue_signalled, b"s": self._step,
            b"S": self._step_signalled, b"b": self._backwards, b"Z": self._insert, b"z": self._remove,
            b"H": lambda _: OK, b"T": lambda _: OK, b"D": self._detach, b"k": self._kill, b"v": self._many,
            b"q": self._query, b"Q": self._set,
        }  # fmt: skip
        self.last_stop = Stop("attached")
        self.begin()

    def begin(self) -> None:
        """A new client."""
        self.acknowledges = True
        self.leaves = False
        self._physical = False
        self._knows_breaks = False
        self.last_stop = Stop("attached")

    def answer(self, packet: bytes) -> Answer:
        """What is sent back, or how the guest is to go on."""
        handler = self._packets.get(packet[:1])
        if handler is None:
            return b""
        try:
            return handler(packet[1:])
        except (ValueError, IndexError):
            return BAD
        except GuestUnreachable:
            return UNREACHABLE

    def describe(self, stop: Stop) -> bytes:
        """A stop reply."""
        if stop.kind == "ended":
            return b"W00"
        reason = ""
        if stop.kind == "breakpoint" and self._knows_breaks:
            reason = "swbreak:;" if stop.address in self._points.software else "hwbreak:;"
        elif stop.kind == "watchpoint":
            reason = f"{_WATCH_NAMES[stop.watch]}:{stop.address:x};"
        elif stop.kind == "begin":
            reason = "replaylog:begin;"
        return f"T{_SIGNALS.get(stop.kind, _TRAP):02x}thread:01;{reason}".encode()

    # -- registers

    def _read_registers(self, _: bytes) -> bytes:
        return self._registers.read_all(self._guest).hex().encode()

    def _write_registers(self, data: bytes) -> bytes:
        if self._registers.write_all(self._guest, bytes.fromhex(data.decode())):
            self._session.changed()
        return OK

    def _read_register(self, data: bytes) -> bytes:
        return self._registers.read(self._guest, _hex(data)).hex().encode()

    def _write_register(self, data: bytes) -> bytes:
        number, _, value = data.partition(b"=")
        if self._registers.write(self._guest, _hex(number), bytes.fromhex(value.decode())):
            self._session.changed()
        return OK

    # -- memory

    def _read_memory(self, data: bytes) -> bytes:
        address, _, length = data.partition(b",")
        size = min(_hex(length), PACKET_SIZE // 2)
        read = self._guest.read_physical if self._physical else self._guest.read
        found = read(_address(address), size)
        return found.hex().encode() if found or not size else UNREACHABLE

    def _write_memory(self, data: bytes) -> bytes:
        place, _, content = data.partition(b":")
        return self._write(place, bytes.fromhex(content.decode()))

    def _write_binary(self, data: bytes) -> bytes:
        place, _, content = data.partition(b":")
        return self._write(place, content)

    def _write(self, place: bytes, data: bytes) -> bytes:
        address, _, length = place.partition(b",")
        if _hex(length) != len(data):
            return BAD
        if data:
            write = self._guest.write_physical if self._physical else self._guest.write
            write(_address(address), data)
            self._session.changed()
        return OK

    # -- running

    def _continue(self, data: bytes) -> Answer:
        return self._go(data, Resume())

    def _continue_signalled(self, data: bytes) -> Answer:
        return self._go(data.partition(b";")[2], Resume())

    def _step(self, data: bytes) -> Answer:
        return self._go(data, Resume(step=True))

    def _step_signalled(self, data: bytes) -> Answer:
        return self._go(data.partition(b";")[2], Resume(step=True))

    def _go(self, address: bytes, resume: Resume) -> Answer:
        if address:
            self._guest.set_rip(_address(address))
            self._session.changed()
        return resume

    def _backwards(self, data: bytes) -> Answer:
        if not self._session.goes_backwards or data not in (b"s", b"c"):
            return b""
        return Resume(step=data == b"s", backwards=True)

    def _many(self, data: bytes) -> Answer:
        if data == b"Cont?":
            return b"vCont;c;C;s;S"
        if data.startswith(b"Cont;"):
            # One thread: the first action is for it.
            action = data[5:6].lower()
            return Resume(step=action == b"s") if action in (b"s", b"c") else BAD
        if data.startswith(b"Kill;"):
            self._kill(b"")
            return OK
        return b""

    def _detach(self, _: bytes) -> Answer:
        self.leaves = True
        return OK

    def _kill(self, _: bytes) -> Answer:
        self._session.quit()
        self.leaves = True
        return OK

    # -- breakpoints

    def _insert(self, data: bytes) -> bytes:
        kind, address, size = _point(data)
        points = self._points
        if points.count >= MOST_POINTS:
            return TOO_MANY
        if kind in (0, 1):
            (points.hardware if kind else points.software).add(address)
        elif kind in _WATCH_KINDS:
            if not 0 < size <= LONGEST_WATCH:
                return BAD
            watch = Watch(_WATCH_KINDS[kind], address, size)
            if watch not in points.watches:
                points.watches.append(watch)
        else:
            return b""
        return OK

    def _remove(self, data: bytes) -> bytes:
        kind, address, size = _point(data)
        points = self._points
        if kind in (0, 1):
            (points.hardware if kind else points.software).discard(address)
        elif kind in _WATCH_KINDS:
            watch = Watch(_WATCH_KINDS[kind], address, size)
            if watch in points.watches:
                points.watches.remove(watch)
        else:
            return b""
        return OK

    # -- queries

    def _query(self, data: bytes) -> bytes:
        name, _, rest = data.partition(b":")
        if name == b"Supported":
            self._knows_breaks = b"swbreak+" in rest.split(b";")
            # No qXfer:memory-map: addresses are the guest's linear ones, of which gdb would then see none.
            found = (
                f"PacketSize={PACKET_SIZE:x};qXfer:features:read+;vContSupported+;QStartNoAckMode+;swbreak+;hwbreak+"
            )
            if self._session.goes_backwards:
                found += ";ReverseStep+;ReverseContinue+"
            return found.encode()
        if name == b"Xfer" and rest.startswith(b"features:read:target.xml:"):
            start, _, length = rest.rpartition(b":")[2].partition(b",")
            first = _hex(start)
            size = min(_hex(length), PACKET_SIZE // 2)
            part = self._description[first : first + size]
            return (b"m" if first + size < len(self._description) else b"l") + escape(part)
        if name.startswith(b"Rcmd,"):
            text = bytes.fromhex(name[5:].decode()).decode(errors="replace")
            output = self._session.command(text).encode()
            for at in range(0, len(output), _PRINT_SIZE):
                self._print(output[at : at + _PRINT_SIZE])
            return OK
        plain = {
            b"C": b"QC1", b"fThreadInfo": b"m1", b"sThreadInfo": b"l", b"Attached": b"1",
            b"qemu.PhyMemMode": b"1" if self._physical else b"0", b"qemu.Supported": b"PhyMemMode",
        }  # fmt: skip
        if name.startswith(b"ThreadExtraInfo,"):
            halted = "halted" if self._guest.halted else "running"
            return f"CPU#0 [{halted}]".encode().hex().encode()
        return plain.get(name, b"")

    def _set(self, data: bytes) -> bytes:
        if data == b"StartNoAckMode":
            self.acknowledges = False
            return OK
        if data.startswith(b"qemu.PhyMemMode:"):
            self._physical = _hex(data.partition(b":")[2]) != 0
            return OK
        return b""


def _hex(text: bytes) -> int:
    """A number of the protocol: unsigned, hexadecimal."""
    if not text or len(text) > 32 or any(byte not in b"0123456789abcdefABCDEF" for byte in text):
        raise ValueError
    return int(text, 16)


def _address(text: bytes) -> int:
    return _hex(text) & (1 << 64) - 1


def _point(data: bytes) -> tuple[int, int, int]:
    """Kind, address and size (or kind of breakpoint) of Z and z. Conditions behind it are gdb's own to check."""
    parts = data.partition(b";")[0].split(b",")
    if len(parts) != 3:
        raise ValueError
    return _hex(parts[0]), _address(parts[1]), _hex(parts[2])
