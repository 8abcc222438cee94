"""How many page faults does Debian take until its shell's prompt, and how many of them in user programs?"""

from collections import Counter

from trapgate import Machine

machine = Machine(memory="128M")
machine.boot("debian")
faults: Counter[int] = Counter()
machine.on_exception(14, lambda fault: faults.update([machine.registers.cpl]))
machine.expect("~ # ")
print(f"{faults.total()} page faults in {machine.seconds:.3f} s, {faults[3]} of them in user mode")
