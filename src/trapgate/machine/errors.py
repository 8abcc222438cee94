"""Errors of the machine: what our own code or the user did wrong, never what a guest did to itself."""

from __future__ import annotations


class MachineError(Exception):
    """Base of everything that `machine`, `devices` and `firmware` raise."""


class AddressOutsideMemory(MachineError):
    """A host-side access (a loader, a DMA engine) reached guest-physical addresses that are not RAM."""

    def __init__(self, address: int, length: int, size: int) -> None:
        super().__init__(
            f"wanted RAM at guest-physical {address:#x} to {address + length - 1:#x}, got a machine with "
            f"{size >> 20} MB: give it more memory or use lower addresses"
        )
        self.address = address
        self.length = length


class InvalidMemorySize(MachineError):
    """The user asked for a RAM size that the machine cannot have."""

    def __init__(self, size: int) -> None:
        super().__init__(
            f"wanted a memory size that is a multiple of 4096 bytes, from 1 MB to 64 GB, got {size} bytes: "
            "choose another memory size"
        )


class UnimplementedDevice(MachineError):
    """A guest used a device feature that exists in the hardware and not yet here."""

    def __init__(self, device: str, feature: str) -> None:
        super().__init__(
            f"unimplemented: wanted a feature of the {device} that trapgate has, got {feature}: "
            "docs/processor.md lists what is not there yet"
        )
        self.device = device
        self.feature = feature


class InvalidMapping(MachineError):
    """A board mapped a device where nothing can be mapped."""

    def __init__(self, device: str, wanted: str, got: str) -> None:
        super().__init__(f"{device}: wanted {wanted}, got {got}: correct the mapping")
        self.device = device


class MappingConflict(MachineError):
    """A board gave the same port or page to two devices."""

    def __init__(self, device: str, owner: str, place: str) -> None:
        super().__init__(f"{device}: wanted {place}, got one that {owner} has: move one of the two")
        self.device = device
        self.owner = owner


class InvalidFrequency(MachineError):
    """A clock was given a frequency at which the devices' timers cannot be modelled."""

    def __init__(self, hz: int) -> None:
        super().__init__(f"wanted a processor clock of at least 1000000 Hz, got {hz}: choose another frequency")
        self.hz = hz


class SnapshotMismatch(MachineError):
    """A snapshot does not have the shape of the device that is to take it."""

    def __init__(self, device: str, wanted: set[str], got: set[str]) -> None:
        super().__init__(
            f"{device}: wanted a snapshot with {', '.join(sorted(wanted))}, got one with "
            f"{', '.join(sorted(got)) or 'nothing'}: take the snapshot again with this version"
        )
        self.device = device


class UnknownTierSetting(MachineError):
    """When the hot tier is to be used is none of the settings that there are. `source`: who says so."""

    def __init__(self, value: str, source: str) -> None:
        super().__init__(f"wanted auto, off or always in {source}, got {value!r}: correct {source}")
