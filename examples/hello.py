"""A machine in four lines."""

from trapgate import Machine

machine = Machine(memory="128M")
machine.boot("real-loop")
result = machine.run()
print(machine.console.text, result, sep="")
