"""A device in ten lines: a thermometer at port 300h, and a guest that reads it."""

from trapgate import Machine


class TemperatureSensor:
    """Port 0: degrees Celsius. A write to port 1 heats the room."""

    def __init__(self) -> None:
        self.degrees = 21

    def read_port(self, offset: int, width: int) -> int:
        return self.degrees

    def write_port(self, offset: int, width: int, value: int) -> None:
        self.degrees += value


# 16-bit code for 0000:7C00
GUEST = bytes.fromhex(
    "ba 00 03"  # mov dx, 300h
    "ec"  #       in al, dx          ; the temperature
    "88 c3"  #    mov bl, al
    "42"  #       inc dx
    "b0 04"  #    mov al, 4
    "ee"  #       out dx, al         ; heat by 4 degrees
    "4a"  #       dec dx
    "ec"  #       in al, dx          ; and look again
    "fa"  #       cli
    "f4"  #       hlt
)

sensor = TemperatureSensor()
machine = Machine(memory="1M")
machine.add_port_device(0x300, sensor, count=2)
machine.boot(image=GUEST, address=0x7C00)
print(machine.run())
print(f"first {machine.registers.rbx} degrees, then {machine.registers.rax & 0xFF}")
print(f"port accesses: {machine.statistics().port_accesses['TemperatureSensor']}")
