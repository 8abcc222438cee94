"""What LLVM must be able to compile."""

from __future__ import annotations

from trapgate.engine.handlers import HandlerStore

from .random_runs import compare_case, make_case


def test_bytes_of_a_register_written_one_after_the_other(handlers: HandlerStore) -> None:
    """LLVM's register coalescer failed an assertion, and ended the process, on this program's region."""
    assert compare_case(make_case("3 246"), handlers) > 0
