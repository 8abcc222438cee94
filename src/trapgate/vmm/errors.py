"""What can go wrong in the hypervisor."""

from __future__ import annotations

_REPORT = "please report it: a guest cannot cause it"


class VmmError(Exception):
    """The virtual machine cannot go on."""


class EntryRefused(VmmError):
    """VMRUN has refused a VMCB: an error of the hypervisor's, never of its guest's."""

    def __init__(self, why: str) -> None:
        super().__init__(f"VMRUN: wanted a consistent VMCB, got one refused because {why}: {_REPORT}")


class UnexpectedExit(VmmError):
    """An exit that was not asked for."""

    def __init__(self, name: str, rip: int) -> None:
        super().__init__(f"VMEXIT: wanted one that has a function, got {name} at rip {rip:#x}: {_REPORT}")


class NoSuchTechnique(VmmError):
    """The processor lacks what a technique needs."""

    def __init__(self, technique: str, profile: str, missing: str) -> None:
        super().__init__(
            f"technique {technique}: wanted a processor with {missing}, got {profile}: choose another with --cpu"
        )


class DeviceInstruction(VmmError):
    """The emulator does not know an instruction that accesses a device."""

    def __init__(self, instruction: str, rip: int, address: int) -> None:
        super().__init__(
            f"memory-mapped device: wanted an access by an instruction that the emulator knows, got `{instruction}` at "
            f"rip {rip:#x}, guest-physical {address:#x}: run the guest on the bare machine"
        )
