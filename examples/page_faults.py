"""How many page faults does Debian take until its shell's prompt, and how many of them are user programs'?"""

from trapgate import Machine

machine = Machine(memory="128M")
machine.boot("debian")
by_privilege = {0: 0, 3: 0}
machine.on_exception(
    14, lambda fault: by_privilege.update({machine.registers.cpl: by_privilege[machine.registers.cpl] + 1})
)
machine.expect("~ # ")
print(f"{sum(by_privilege.values())} page faults in {machine.seconds:.3f} s, {by_privilege[3]} of them in user mode")
