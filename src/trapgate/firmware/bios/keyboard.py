"""INT 09h, the keyboard's interrupt, and INT 16h, the keyboard service.

Sources: IBM PC AT Technical Reference, BIOS listing, INT 09h and 16h; Ralf Brown's Interrupt List, INT 16h; MEMORY.LST
for the flags at 40:17h, 40:18h and 40:96h.
"""

from __future__ import annotations

from trapgate.firmware.bios import data_area, keys
from trapgate.firmware.bios.call import Call
from trapgate.firmware.bios.host import Host
from trapgate.firmware.bios.waiting import Waiting
from trapgate.machine.device import PlainState

# 40:17h
RIGHT_SHIFT, LEFT_SHIFT, CONTROL, ALT = 0x01, 0x02, 0x04, 0x08
SCROLL_LOCK, NUM_LOCK, CAPS_LOCK, INSERT = 0x10, 0x20, 0x40, 0x80
_HELD = {keys.RIGHT_SHIFT: RIGHT_SHIFT, keys.LEFT_SHIFT: LEFT_SHIFT, keys.CONTROL: CONTROL, keys.ALT: ALT}
_LOCKS = {keys.SCROLL_LOCK: SCROLL_LOCK, keys.NUM_LOCK: NUM_LOCK, keys.CAPS_LOCK: CAPS_LOCK}
# 40:96h
LAST_WAS_E0 = 0x02
ENHANCED_KEYBOARD = 0x10
RIGHT_CONTROL, RIGHT_ALT = 0x04, 0x08
_RIGHT = {keys.CONTROL: RIGHT_CONTROL, keys.ALT: RIGHT_ALT}

PREFIX_E0, PREFIX_E1 = 0xE0, 0xE1
RELEASED = 0x80
WARM_RESET = 0x1234
GREY = 0xE0
#: Functions of INT 16h, from AH.
READ, PEEK, SHIFTS, RATE, STORE, READ_ENHANCED, PEEK_ENHANCED, SHIFTS_ENHANCED = 0, 1, 2, 3, 5, 0x10, 0x11, 0x12
#: A guest that looks for a key this often, each time within POLL_GAP microseconds of the last, is waiting for one.
POLLS_BEFORE_SLEEP = 64
POLL_GAP = 50


class Keyboard(PlainState):
    """The keyboard's service and interrupt."""

    STATE = ("wanted", "_polls", "_last_poll", "_slept")

    def __init__(self, host: Host, waiting: Waiting) -> None:
        self._host = host
        self._memory = host.memory
        self._waiting = waiting
        #: The guest has asked for a key: input that waits for that may come.
        self.wanted = False
        self._polls = 0
        self._last_poll = 0
        self._slept = False

    # The buffer

    def _bounds(self) -> tuple[int, int]:
        memory = self._memory
        return memory.read_u16(data_area.KEY_BUFFER_START_POINTER), memory.read_u16(data_area.KEY_BUFFER_END_POINTER)

    def _after(self, position: int) -> int:
        start, end = self._bounds()
        return start if position + 2 >= end else position + 2

    @property
    def has_room(self) -> bool:
        """False while the buffer takes no more keys."""
        memory = self._memory
        head, tail = memory.read_u16(data_area.KEY_HEAD), memory.read_u16(data_area.KEY_TAIL)
        return self._after(tail) != head

    def _store(self, word: int) -> bool:
        if not self.has_room:
            return False
        tail = self._memory.read_u16(data_area.KEY_TAIL)
        self._memory.write_u16(data_area.OFFSET_BASE + tail, word)
        self._memory.write_u16(data_area.KEY_TAIL, self._after(tail))
        return True

    def _peek(self) -> int | None:
        head = self._memory.read_u16(data_area.KEY_HEAD)
        if head == self._memory.read_u16(data_area.KEY_TAIL):
            return None
        return self._memory.read_u16(data_area.OFFSET_BASE + head)

    def _drop(self) -> None:
        self._memory.write_u16(data_area.KEY_HEAD, self._after(self._memory.read_u16(data_area.KEY_HEAD)))

    # INT 09h

    def interrupt(self, call: Call) -> None:
        """INT 09h: AL is the byte from port 60h, after INT 15h AH=4Fh had it."""
        code = call.al
        memory = self._memory
        flags_3 = memory.read_u8(data_area.KEYBOARD_FLAGS_3)
        if code in (PREFIX_E0, PREFIX_E1):
            memory.write_u8(data_area.KEYBOARD_FLAGS_3, flags_3 | LAST_WAS_E0)
            return
        extended = bool(flags_3 & LAST_WAS_E0)
        memory.write_u8(data_area.KEYBOARD_FLAGS_3, flags_3 & ~LAST_WAS_E0)
        scan, released = code & 0x7F, bool(code & RELEASED)
        if scan in _HELD:
            self._hold(scan, released, extended)
        elif scan in _LOCKS and not extended:
            self._lock(scan, released)
        elif not released:
            self._press(scan, extended)

    def _hold(self, scan: int, released: bool, extended: bool) -> None:
        if extended and scan in (keys.LEFT_SHIFT, keys.RIGHT_SHIFT):
            return  # a shift that the keyboard makes up around its grey keys
        memory = self._memory
        held = memory.read_u8(data_area.SHIFT_FLAGS)
        memory.write_u8(data_area.SHIFT_FLAGS, held & ~_HELD[scan] if released else held | _HELD[scan])
        if extended:
            right = memory.read_u8(data_area.KEYBOARD_FLAGS_3)
            bit = _RIGHT[scan]
            memory.write_u8(data_area.KEYBOARD_FLAGS_3, right & ~bit if released else right | bit)
        if scan == keys.ALT and released:
            digits = memory.read_u8(data_area.ALT_DIGITS)
            memory.write_u8(data_area.ALT_DIGITS, 0)
            if digits:
                self._store(digits)

    def _lock(self, scan: int, released: bool) -> None:
        memory, bit = self._memory, _LOCKS[scan]
        down = memory.read_u8(data_area.SHIFT_FLAGS_2)
        memory.write_u8(data_area.SHIFT_FLAGS_2, down & ~bit if released else down | bit)
        if not released and not down & bit:
            memory.write_u8(data_area.SHIFT_FLAGS, memory.read_u8(data_area.SHIFT_FLAGS) ^ bit)

    def _press(self, scan: int, extended: bool) -> None:
        memory = self._memory
        held = memory.read_u8(data_area.SHIFT_FLAGS)
        if scan == keys.DELETE and held & CONTROL and held & ALT:
            memory.write_u16(data_area.RESET_FLAG, WARM_RESET)
            self._host.outb(0x64, 0xFE)
            return
        if scan == keys.INSERT and not held & (CONTROL | ALT):
            memory.write_u8(data_area.SHIFT_FLAGS, held ^ INSERT)
        key = keys.extended_key(scan) if extended else keys.KEYS.get(scan)
        if key is None:
            return
        if held & ALT and not extended and scan in keys.KEYPAD and key.shift is not None:
            digit = key.shift - 0x30 & 0xFF
            if digit < 10:
                memory.write_u8(data_area.ALT_DIGITS, memory.read_u8(data_area.ALT_DIGITS) * 10 + digit)
            return
        word = self._word_of(key, scan, held, extended)
        if word is not None:
            self._store(word)

    @staticmethod
    def _word_of(key: keys.Key, scan: int, held: int, extended: bool) -> int | None:
        if held & ALT:
            return key.alt
        if held & CONTROL:
            return key.control
        shifted = bool(held & (LEFT_SHIFT | RIGHT_SHIFT))
        if key.letter and held & CAPS_LOCK:
            shifted = not shifted
        if scan in keys.KEYPAD and not extended and held & NUM_LOCK:
            shifted = not shifted
        return key.shift if shifted else key.plain

    # INT 16h

    def call(self, call: Call) -> None:
        """INT 16h."""
        function = call.ah
        if function in (READ, READ_ENHANCED):
            self._read(call)
        elif function in (PEEK, PEEK_ENHANCED):
            self._look(call)
        elif function == SHIFTS:
            call.al = self._memory.read_u8(data_area.SHIFT_FLAGS)
        elif function == SHIFTS_ENHANCED:
            call.al = self._memory.read_u8(data_area.SHIFT_FLAGS)
            down = self._memory.read_u8(data_area.SHIFT_FLAGS_2)
            call.ah = down & 0x73 | self._memory.read_u8(data_area.KEYBOARD_FLAGS_3) & 0x0C
        elif function == STORE:
            call.al = 0 if self._store(call.cx) else 1
        elif function == RATE:
            pass  # keys arrive as they are typed; there is no key that repeats
        else:
            self._host.note(f"{call.describe()}: not supported")

    def _next(self, enhanced: bool) -> int | None:
        """The word of the next key for a function of either kind, None without one.

        The old functions do not see keys that only the enhanced keyboard has, and see grey keys as white ones.
        """
        while (word := self._peek()) is not None:
            scan, character = word >> 8, word & 0xFF
            if enhanced:
                # F0h marks keys of the keypad that programs should see as 00h.
                return word & 0xFF00 if character == 0xF0 and scan else word
            if scan == GREY:
                return (0x3500 if character == 0x2F else 0x1C00) | character
            if scan > 0x84:
                self._drop()
                continue
            return word & 0xFF00 if character in (GREY, 0xF0) and scan else word
        return None

    def _read(self, call: Call) -> None:
        self.wanted = True
        word = self._next(call.ah == READ_ENHANCED)
        if word is None:
            self._waiting.sleep(call)
            return
        self._drop()
        self._polls = 0
        call.ax = word

    def _look(self, call: Call) -> None:
        self.wanted = True
        word = self._next(call.ah == PEEK_ENHANCED)
        if word is None and self._is_waiting():
            self._waiting.sleep(call)
            return
        call.set_zero(word is None)
        if word is not None:
            self._polls = 0
            call.ax = word

    def _is_waiting(self) -> bool:
        """True when the guest looks again and again and does nothing else: then the processor may as well sleep."""
        if self._slept:
            self._slept = False
            self._last_poll = self._host.clock.now
            return False
        now = self._host.clock.now
        gap = now - self._last_poll
        self._last_poll = now
        self._polls = self._polls + 1 if gap * 1_000_000 < POLL_GAP * self._host.clock.hz else 0
        if self._polls < POLLS_BEFORE_SLEEP:
            return False
        self._slept = True
        return True
