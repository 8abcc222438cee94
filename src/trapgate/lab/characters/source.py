"""What comes in through the ports, as sources of a machine's input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from trapgate.boards.pc import Pc, PcConfig
from trapgate.boards.pci import DiskConfig, FolderConfig
from trapgate.lab.characters.backend import CharacterBackend
from trapgate.lab.characters.opening import PortBackends
from trapgate.lab.displays import board_vga
from trapgate.lab.networks import Nic, configs
from trapgate.lab.options import RunOptions
from trapgate.machine.outside import TYPING_PERIOD, Deliver, Outside


class Machine(Protocol):
    """Either machine."""

    board: Pc
    outside: Outside


class CharacterInput:
    """What comes in at `backend`, for `deliver`, while the guest `wants` it: a peer that sends faster has to wait."""

    period = TYPING_PERIOD

    def __init__(self, backend: CharacterBackend, wants: Callable[[], bool], deliver: Deliver) -> None:
        self._backend, self._wants, self._deliver = backend, wants, deliver

    @property
    def listens(self) -> bool:
        """Whether input may come and is wanted."""
        return self._backend.has_input and self._wants()

    def descriptors(self) -> Sequence[int]:
        """The back end's."""
        return self._backend.descriptors()

    def timeout(self) -> float | None:
        """None: what comes makes a descriptor readable."""
        return None

    def poll(self) -> None:
        """Send what was written, and take what has come."""
        if not self._wants():
            self._backend.flush()
            return
        data = self._backend.poll()
        if data:
            self._deliver(data)


def board_config(
    options: RunOptions,
    disks: tuple[DiskConfig, ...],
    nics: tuple[Nic, ...],
    ports: PortBackends,
    folders: tuple[FolderConfig, ...] = (),
) -> PcConfig:
    """The board that a run has."""
    return PcConfig(
        folders=folders,
        nics=configs(nics),
        disks=disks, devices=options.devices, serial2=ports.serial2, parallel=ports.parallel,
        virtio_ports=ports.virtio_ports, vga=board_vga(options),
    )  # fmt: skip


def connect(machine: Machine, ports: PortBackends) -> None:
    """Let the ports' input come into a machine, at the places "com2", "hvc0", "hvc1" and so on."""
    board, outside = machine.board, machine.outside
    if ports.serial2 is not None:
        serial = board.serial2
        deliver = outside.add_place("com2", serial.receive)
        outside.add_source(CharacterInput(ports.serial2, lambda: serial.wants_input, deliver))
    if ports.parallel is not None:
        outside.add_source(CharacterInput(ports.parallel, lambda: False, lambda data: None))
    console = board.virtio_console
    if console is not None:
        for port, backend in zip(console.ports, ports.virtio, strict=False):
            deliver = outside.add_place(f"hvc{port.number}", port.receive)
            outside.add_source(CharacterInput(backend, port.wants_input, deliver))
