"""Single steps through a boot sector's beginning, the registers that change printed at each."""

from trapgate import Machine

machine = Machine(memory="16M")
machine.boot("real-loop")
before = machine.registers.general()
for _ in range(12):
    line = machine.disassemble(count=1)[0]
    machine.step()
    after = machine.registers.general()
    changed = [f"{name}={value:#x}" for name, value in after.items() if value != before[name] and name != "rip"]
    print(f"{line:<80} {' '.join(changed)}".rstrip())
    before = after
