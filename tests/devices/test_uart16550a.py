"""The serial port, as the PC16550D data sheet describes it and as Linux's 8250 driver probes it."""

from __future__ import annotations

from trapgate.devices.uart16550a import Uart16550A
from trapgate.machine.clock import Clock
from trapgate.machine.console import MemoryConsole

from .support import HZ, Line, advance, microseconds

RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)


class Port:
    """A UART with its surroundings."""

    def __init__(self, connected: bool = True) -> None:
        self.clock = Clock(HZ)
        self.line = Line()
        self.console = MemoryConsole()
        self.uart = Uart16550A("com1", self.clock, self.line, self.console, connected)

    def get(self, register: int) -> int:
        return self.uart.read_port(register, 1)

    def put(self, register: int, value: int) -> None:
        self.uart.write_port(register, 1, value)

    def open(self, fifo: int = 0x01, ier: int = 0) -> None:
        """115200 baud, 8N1, OUT2."""
        self.put(LCR, 0x83)
        self.put(0, 1)
        self.put(1, 0)
        self.put(LCR, 0x03)
        self.put(IIR, fifo)
        self.put(MCR, 0x0B)
        self.put(IER, ier)


def test_what_is_written_is_at_the_console_at_once() -> None:
    port = Port()
    port.open()
    for byte in b"Linux":
        assert port.get(LSR) == 0x60
        port.put(RBR, byte)
    assert port.console.data == b"Linux"
    assert port.uart.sent_bytes == 5


def test_the_divisor_latch_hides_data_and_interrupt_enable() -> None:
    port = Port()
    port.put(IER, 0x05)
    port.put(LCR, 0x83)
    port.put(0, 0x34)
    port.put(1, 0x12)
    assert (port.get(0), port.get(1)) == (0x34, 0x12)
    port.put(LCR, 0x03)
    assert port.get(IER) == 0x05
    assert port.console.data == b""


def test_linux_finds_a_16550a() -> None:
    port = Port()
    port.put(IER, 0)
    assert port.get(IER) & 0x0F == 0
    port.put(IER, 0x0F)
    assert port.get(IER) == 0x0F  # bits 7:4 do not exist
    port.put(IER, 0xFF)
    assert port.get(IER) == 0x0F
    port.put(IER, 0)
    port.put(MCR, 0x10 | 0x0A)
    assert port.get(MSR) & 0xF0 == 0x90
    port.put(MCR, 0)
    port.put(LCR, 0)
    port.put(IIR, 1)
    assert port.get(IIR) >> 6 == 3
    port.put(LCR, 0x80)
    port.put(IIR, 0x21)
    assert port.get(IIR) >> 5 == 6  # no 64-byte FIFO
    port.put(SCR, 0xA5)
    assert port.get(SCR) == 0xA5


def test_transmitter_empty_interrupts_when_enabled_and_again_after_each_byte() -> None:
    port = Port()
    port.open(ier=0x02)
    assert port.line.level
    assert port.get(IIR) == 0xC2  # reading it takes it back
    assert not port.line.level
    assert port.get(IIR) == 0xC1
    port.put(RBR, 0x41)
    assert port.line.level
    rises = port.line.rises
    port.put(RBR, 0x42)
    assert port.line.rises == rises + 1  # a new edge, for edge-triggered controllers
    port.get(IIR)
    port.put(IER, 0)
    port.put(IER, 2)  # Linux's test for broken transmitters
    assert port.get(IIR) == 0xC2


def test_no_interrupt_without_out2() -> None:
    port = Port()
    port.open(ier=0x02)
    port.put(MCR, 0x03)
    assert not port.line.level
    assert port.get(IIR) & 1 == 0  # the chip asks, the card does not pass it on


def test_characters_arrive_at_the_baud_rate() -> None:
    port = Port()
    port.open(ier=0x01)
    port.uart.receive(b"ab")
    advance(port.clock, microseconds(86))
    assert port.get(LSR) & 1 == 0
    advance(port.clock, microseconds(1))  # 10 bits at 115200 baud are 86.8 us
    assert port.line.level
    assert port.get(IIR) == 0xC4
    assert port.get(RBR) == ord("a")
    assert not port.line.level
    advance(port.clock, microseconds(87))
    assert port.get(RBR) == ord("b")
    assert port.get(RBR) == 0


def test_the_trigger_level_and_the_timeout() -> None:
    port = Port()
    port.open(fifo=0x81, ier=0x01)  # 8 bytes
    port.uart.receive(bytes(range(8)))
    advance(port.clock, microseconds(87 * 7))
    assert not port.line.level
    advance(port.clock, microseconds(87))
    assert port.get(IIR) == 0xC4
    for expected in range(5):
        assert port.get(RBR) == expected
    assert not port.line.level
    advance(port.clock, microseconds(87 * 4 - 5))
    assert not port.line.level
    advance(port.clock, microseconds(10))
    assert port.get(IIR) == 0xCC  # character timeout
    assert [port.get(RBR), port.get(RBR), port.get(RBR)] == [5, 6, 7]
    assert not port.line.level


def test_input_waits_while_the_fifo_is_full_and_nothing_is_lost() -> None:
    port = Port()
    port.open()
    data = bytes(range(100))
    port.uart.receive(data)
    advance(port.clock, HZ)
    assert len(port.uart.fifo) == 16
    got = bytearray()
    for _ in range(1000):
        while port.get(LSR) & 1:
            got.append(port.get(RBR))
        advance(port.clock, microseconds(50))
    assert got == data


def test_loopback_returns_data_and_reports_overrun() -> None:
    port = Port()
    port.open(fifo=0)
    port.put(MCR, 0x1B)
    port.put(IER, 0x04)
    port.put(RBR, 0x55)
    assert port.get(LSR) == 0x61
    port.put(RBR, 0x66)
    assert port.get(IIR) == 0x06
    assert port.get(LSR) == 0x63
    assert port.get(LSR) == 0x61  # reading clears the error
    assert port.get(RBR) == 0x66
    assert port.console.data == b""


def test_a_full_fifo_keeps_the_old_characters() -> None:
    port = Port()
    port.open()
    port.put(MCR, 0x1B)
    for value in range(20):
        port.put(RBR, value)
    assert port.get(LSR) & 0x02
    assert [port.get(RBR) for _ in range(16)] == list(range(16))


def test_short_words_lose_their_high_bits() -> None:
    port = Port()
    port.put(LCR, 0x00)  # 5 bits
    port.put(RBR, 0xFF)
    assert port.console.data == b"\x1f"


def test_modem_status_counts_changes() -> None:
    port = Port()
    port.open(ier=0x08)
    assert port.get(MSR) == 0xB0
    port.put(MCR, 0x18)  # loopback: only DCD (OUT2) stays
    assert port.line.level
    assert port.get(IIR) == 0xC0
    assert port.get(MSR) == 0x80 | 0x03  # CTS and DSR fell
    assert port.get(MSR) == 0x80
    port.put(MCR, 0x1C)  # OUT1: ring comes, which is not counted
    assert port.get(MSR) == 0xC0
    port.put(MCR, 0x18)  # its end is
    assert port.get(MSR) == 0x84


def test_an_unconnected_port_has_no_modem_lines() -> None:
    assert Port(connected=False).get(MSR) == 0


def test_clearing_the_receiver_drops_what_is_there() -> None:
    port = Port()
    port.open(ier=0x01)
    port.uart.receive(b"x")
    advance(port.clock, microseconds(100))
    port.put(IIR, 0x03)
    assert port.get(LSR) == 0x60
    assert not port.line.level


def test_status_registers_cannot_be_written() -> None:
    port = Port()
    port.put(LSR, 0xFF)
    port.put(MSR, 0xFF)
    assert port.get(LSR) == 0x60
    assert port.get(MSR) == 0xB0
