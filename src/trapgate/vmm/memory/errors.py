"""Errors of the hypervisor's memory: too small a host, or our own mistakes; never what a guest did."""

from __future__ import annotations


class VmmMemoryError(Exception):
    """Base of what `vmm.memory` raises."""


class OutOfHostMemory(VmmMemoryError):
    """The host has no free frames of the wanted kind."""

    def __init__(self, owner: str, wanted: str, free: int) -> None:
        super().__init__(
            f"{owner}: wanted {wanted} of host memory, got none ({free} frames of 4 KB are free): "
            "give the host more memory or the guests less"
        )
        self.owner = owner
        self.free = free


class FrameNotOwned(VmmMemoryError):
    """Somebody gave back a host frame that was not theirs: a mistake in the hypervisor."""

    def __init__(self, address: int, wanted: str, got: str) -> None:
        super().__init__(
            f"host frame {address:#x}: wanted one of {wanted} to free, got one of {got}: free what was allocated, once"
        )
        self.address = address


class OutsideGuestMemory(VmmMemoryError):
    """Our own code mapped a guest-physical page that the guest does not have."""

    def __init__(self, address: int, wanted: str) -> None:
        super().__init__(f"wanted {wanted}, got guest-physical {address:#x}: map only pages of the guest's memory")
        self.address = address
