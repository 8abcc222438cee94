"""What each benchmark of the `bench` guest must print, computed anew in Python."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any

import numpy

MASK32 = (1 << 32) - 1
MASK64 = (1 << 64) - 1


def rotate_left_5(value: int) -> int:
    return ((value << 5) | (value >> 59)) & MASK64


def sieve(n: int) -> int:
    limit = 1_000_000
    composite = bytearray(limit)
    for number in range(2, 1000):
        if not composite[number]:
            composite[number * number :: number] = b"\1" * len(range(number * number, limit, number))
    return n * composite[2:].count(0)


def md5(n: int) -> int:
    return int.from_bytes(hashlib.md5(bytes(64 * n)).digest()[:8], "big")


def linked_list(n: int) -> int:
    nodes = 32768
    order = [0]
    while len(order) < nodes:
        order.append((order[-1] * 20077 + 12345) % nodes)
    checksum = 0
    for _ in range(n):
        for value in order:
            checksum = (rotate_left_5(checksum) + value) & MASK64
        order.reverse()
    return checksum


def matrix(n: int) -> int:
    size = range(64)
    a = [[7 * i + 3 * j + 1 for j in size] for i in size]
    columns = [[(i ^ j) + 1 for i in size] for j in size]
    for _ in range(n):
        a = [[(sum(map(int.__mul__, row, column)) & MASK32) >> 7 for column in columns] for row in a]
    return sum(map(sum, a))


def quicksort(n: int) -> int:
    x, checksum = 1, 0
    for _ in range(n):
        numbers = []
        for _ in range(100_000):
            x = (1664525 * x + 1013904223) & MASK32
            numbers.append(x)
        for number in sorted(numbers)[::1000]:
            checksum = rotate_left_5(checksum) ^ number
    return checksum


def interpreter(n: int) -> int:
    total, x = 0, 12345
    for _ in range(n):
        x = (x * 1103515245 + 12345) & MASK64
        x ^= x >> 17
        total = (total + x) & MASK64
    return total


def stride(n: int) -> int:
    pages, frames = 16384, 1024
    return sum(i % pages % frames for i in range(n))


#: Mass, position and velocity.
BODIES = (
    (39.5, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    (0.0375, [5.0, -1.0, 0.25], [0.5, 2.75, -0.0625]),
    (0.0125, [8.0, 4.0, -0.5], [-1.0, 1.75, 0.03125]),
    (0.0017, [13.0, -15.0, -0.25], [1.0, 0.875, -0.015625]),
    (0.002, [15.0, -26.0, 0.125], [0.875, 0.5, -0.03125]),
)


def n_body(n: int, wide: Callable[[float], Any]) -> int:
    """Computed in the format of `wide`, kept as 64-bit numbers."""
    turn = wide(0.01)
    bodies = [(wide(mass), list(position), list(velocity)) for mass, position, velocity in BODIES]
    for _ in range(n):
        for i, (mass1, p1, v1) in enumerate(bodies):
            for mass2, p2, v2 in bodies[i + 1 :]:
                d = [wide(a) - wide(b) for a, b in zip(p1, p2, strict=True)]
                squared = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
                force = turn / (squared * numpy.sqrt(squared))
                first, second = force * mass2, force * mass1
                for axis in range(3):
                    v1[axis] = float(wide(v1[axis]) - d[axis] * first)
                    v2[axis] = float(wide(v2[axis]) + d[axis] * second)
        for _, position, velocity in bodies:
            for axis in range(3):
                position[axis] = float(wide(velocity[axis]) * turn + wide(position[axis]))
    checksum = 0
    for mass, position, velocity in bodies:
        for number in (*position, *velocity, float(mass), 0.0):
            checksum = rotate_left_5(checksum) + struct.unpack("<Q", struct.pack("<d", number))[0] & MASK64
    return checksum


def times_round(n: int) -> int:
    return n


CHECKSUMS: dict[str, Callable[[int], int]] = {
    "count": times_round,
    "sieve": sieve,
    "md5": md5,
    "list": linked_list,
    "matrix": matrix,
    "quicksort": quicksort,
    "interpreter": interpreter,
    "sse": lambda n: n_body(n, numpy.float64),
    "x87": lambda n: n_body(n, numpy.longdouble),
    "memory": lambda n: n * (n + 1) // 2,
    "modify": lambda n: n * (n + 1) // 2,
    "out": times_round,
    "syscall": times_round,
    "pagefault": times_round,
    "cr3": times_round,
    "stride": stride,
    "vmrun": times_round,
}
