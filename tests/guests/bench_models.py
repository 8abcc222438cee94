"""What each benchmark of the `bench` guest must print, computed anew in Python."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

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
    "out": times_round,
    "syscall": times_round,
    "pagefault": times_round,
    "cr3": times_round,
    "stride": stride,
}
