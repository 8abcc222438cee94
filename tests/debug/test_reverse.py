"""Going back: single steps, breakpoints and watchpoints backwards, and forward again to the same state and end."""

from __future__ import annotations

from pathlib import Path

import pytest

from debug.test_stub import AGAIN, END, LOOP, RAX, RCX, RIP, START, STORE, TECHNIQUES, counts
from debug.world import Client, world
from trapgate import guests
from trapgate.firmware.recognise import recognise

pytestmark = pytest.mark.engine

SUPPORTED = "qSupported:swbreak+;hwbreak+"


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_steps_back_lead_through_the_same_states(technique: str, tmp_path: Path) -> None:
    with world(tmp_path, LOOP, technique) as w:
        w.start()
        c = w.connect()
        assert "ReverseStep+;ReverseContinue+" in c.ask(SUPPORTED)
        seen = [c.ask("g")]
        for _ in range(12):
            assert c.ask("s") == "T05thread:01;"
            seen.append(c.ask("g"))
        for known in reversed(seen[:-1]):
            assert c.ask("bs") == "T05thread:01;"
            assert c.ask("g") == known
        assert c.ask("bs") == "T05thread:01;replaylog:begin;"
        assert c.ask("g") == seen[0]
        for known in seen[1:]:
            assert c.ask("s") == "T05thread:01;"
            assert c.ask("g") == known
        assert c.ask("c") == "W00"


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_back_to_breakpoints_and_watchpoints(technique: str, tmp_path: Path) -> None:
    with world(tmp_path, LOOP, technique) as w:
        w.start()
        c = w.connect()
        c.ask(SUPPORTED)
        c.ask(f"Z0,{END:x},1")
        assert c.ask("c") == "T05thread:01;swbreak:;"
        c.ask(f"Z1,{STORE:x},1")
        for turn in (5, 4, 3):
            assert c.ask("bc") == "T05thread:01;hwbreak:;"
            assert (c.register(RIP), c.register(RAX)) == (STORE, turn)
        c.ask(f"z1,{STORE:x},1")
        c.ask("Z2,500,2")
        assert c.ask("m500,2") == "0200"
        # Backwards, the value of before the write is what is there.
        assert c.ask("bc") == "T05thread:01;watch:500;"
        assert (c.register(RIP), c.ask("m500,2")) == (STORE, "0100")
        assert c.ask("bc") == "T05thread:01;watch:500;"
        assert (c.register(RIP), c.ask("m500,2")) == (STORE, "0000")
        assert c.ask("bc") == "T05thread:01;replaylog:begin;"
        assert c.register(RIP) == START
        c.ask("z2,500,2")
        assert c.ask("c") == "T05thread:01;swbreak:;"
        assert (c.register(RIP), c.register(RAX)) == (END, 5)
        assert c.ask("D") == "OK"
        w.finish()


@pytest.mark.parametrize("technique", ["bare", "nested-tagged"])
def test_there_is_no_way_back_before_a_change(technique: str, tmp_path: Path) -> None:
    with world(tmp_path, LOOP, technique) as w:
        w.start()
        c = w.connect()
        c.ask(SUPPORTED)
        c.ask(f"Z0,{AGAIN:x},1")
        c.ask("c")
        c.ask("c")
        assert c.ask(f"P{RCX:x}=0900000000000000") == "OK"
        c.ask("s")
        answer = c.ask("bs")
        if technique == "bare":
            assert answer == "T05thread:01;"
            assert (c.register(RIP), c.register(RCX)) == (AGAIN, 9)
        assert c.ask("bs") == "T05thread:01;replaylog:begin;"
        assert c.register(RCX) == 9


def _forth(c: Client) -> None:
    """To some place in the midst of the tour."""
    c.ask(SUPPORTED)
    for _ in range(50):
        c.ask("s")


def _back_and_forth(c: Client) -> None:
    _forth(c)
    for _ in range(10):
        c.ask("bs")
    for _ in range(10):
        c.ask("s")
    c.send(b"$c#63")
    c.send(b"\x03")
    if c.answer() == "W00":
        return
    there = c.ask("g")
    c.ask("bs")
    c.ask("bs")
    assert c.ask("g") != there
    c.ask("s")
    c.ask("s")
    assert c.ask("g") == there
    assert c.ask("bc") == "T05thread:01;replaylog:begin;"


@pytest.mark.parametrize("technique", ["bare", "shadow-tagged"])
def test_a_run_that_was_taken_back_ends_with_the_same_counts(technique: str, tmp_path: Path) -> None:
    image = recognise(guests.image("trapgate-guest"), "tests")
    found = []
    for number, way in enumerate((_forth, _back_and_forth)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with world(folder, image, technique) as w:
            w.start()
            c = w.connect()
            way(c)
            assert c.ask("D") == "OK"
            assert w.finish() == "request"
            found.append(counts(w))
    assert found[0] == found[1]
