"""What is left out where the consoles of two techniques are compared, and what is not."""

from __future__ import annotations

import pytest

from support import ROOT
from trapgate.lab.same_console import RULES, difference, without_time


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("[    0.000000] Linux version 6.1", "[    0.012345] Linux version 6.1"),
        ("[    0.1] x", "[    0.1] x"),
        ("[    0.004000] tsc: Detected 2000.123 MHz processor", "[    0.008000] tsc: Detected 1999.998 MHz processor"),
        ("[    0.100000] Hypervisor detected: KVM\nend", "end"),
        ("audit: type=2000 audit(1189425600.212:1): state=initialized\nend", "end"),
        ("Kernel Offset: 0x27600000 from 0xffffffff81000000", "Kernel Offset: 0x7c00000 from 0xffffffff81000000"),
        ("input: keyboard as /devices/serio0/input/input0", "input: keyboard as /devices/serio0/input/input1"),
        ("pgfault, page mapped and unmapped          200         167.0",
         "pgfault, page mapped and unmapped          200       11789.5"),
        ("a\r\nb", "a\nb"),
    ],
)  # fmt: skip
def test_what_shows_time_is_left_out(first: str, second: str) -> None:
    assert difference(first.encode(), second.encode(), exact=False) == []
    if first != second:
        assert difference(first.encode(), second.encode(), exact=True) != []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("[    0.000000] Linux version 6.1", "[    0.000000] Linux version 6.2"),
        ("syscall                                   1000          62.0",
         "syscall                                   1001          62.0"),
        ("real mode: state ............................. ok", "real mode: state ............................. FAILED"),
        ("one\n\ntwo", "one\ntwo"),
        ("BUG: unable to handle page fault", ""),
    ],
)  # fmt: skip
def test_what_differs_is_seen(first: str, second: str) -> None:
    assert difference(first.encode(), second.encode(), exact=False) != []


def test_a_difference_shows_both_lines() -> None:
    assert difference(b"same\nbare\n", b"same\nnested\n", exact=True) == ["@@ -2 +2 @@", "-bare", "+nested"]


def test_bytes_that_are_no_text() -> None:
    assert without_time(b"\xff\xfe ok") == ["�� ok"]


def test_every_rule_is_documented() -> None:
    text = (ROOT / "docs" / "compare.md").read_text()
    assert [rule.why for rule in RULES if rule.why not in text] == []
