"""Exceptions that the hypervisor has to give to its guest."""

from __future__ import annotations


class GuestFault(Exception):
    """An exception for the guest, found while the hypervisor worked for it; to be injected into the guest.

    `vector` as in APM vol. 2, table 8-1; `error` the error code (None: the vector pushes none); `address` the linear
    address of a page fault, for CR2 (None for others).
    """

    def __init__(self, vector: int, error: int | None = None, address: int | None = None) -> None:
        super().__init__(vector, error, address)
        self.vector = vector
        self.error = error
        self.address = address

    def __str__(self) -> str:
        error = "" if self.error is None else f", error code {self.error:#x}"
        address = "" if self.address is None else f", linear address {self.address:#x}"
        return f"exception {self.vector} for the guest{error}{address}"
