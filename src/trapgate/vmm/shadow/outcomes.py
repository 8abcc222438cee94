"""What the shadow tables answer: outcomes of page faults, what to flush, what to run the processor with, counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Guest(NamedTuple):
    """The fault is the guest's own: inject #PF with this error code, CR2 being the linear address."""

    error_code: int


class Resume(NamedTuple):
    """The shadow tables now have the page: run on."""


class Device(NamedTuple):
    """The access goes to guest-physical `address`, where there is no RAM: emulate the instruction."""

    address: int


class TableWrite(NamedTuple):
    """The access writes to guest-physical `address`, in a page table with a shadow: emulate the instruction.

    Its writes come to `guest_wrote`. Who cannot emulate it calls `unprotect` with the frame's number and runs on.
    """

    address: int


Outcome = Guest | Resume | Device | TableWrite
RESUME = Resume()


class Flush(NamedTuple):
    """What the guest's entries in the processor's TLB must lose before the guest runs again."""

    #: All of them; of these, those that are not global.
    everything: bool = False
    not_global: bool = False
    #: Single pages, by a linear address in each.
    addresses: tuple[int, ...] = ()


class Hardware(NamedTuple):
    """Bits that the processor is to be run with in place of the guest's own.

    `cr0` stands for PG and WP, `cr4` for PAE, PSE and PGE, `efer` for NXE, LME and LMA; all of `cr3` counts.
    """

    cr0: int
    cr3: int
    cr4: int
    efer: int


@dataclass
class Counters:
    """How often what happened since the shadow tables were made."""

    #: Page faults by outcome.
    faults_guest: int = 0
    faults_resume: int = 0
    faults_device: int = 0
    faults_table_write: int = 0
    #: Leaf entries filled in at a fault, and ahead of one when the guest wrote its entry.
    fills: int = 0
    prefills: int = 0
    #: Shadow entries taken out.
    zaps: int = 0
    #: Address spaces that got a new root, and that found theirs in the cache.
    roots_made: int = 0
    roots_reused: int = 0
    #: Shadow tables made and given back.
    tables_made: int = 0
    tables_freed: int = 0
    #: Writes to protected page tables (`guest_wrote`).
    write_traps: int = 0
    #: Comparisons of an unprotected page table with what its shadow was made from, and how many found changes.
    synchronizations: int = 0
    synchronizations_changed: int = 0
    #: Page tables that were opened for free writing, because of many writes or by `unprotect`.
    unprotected: int = 0
