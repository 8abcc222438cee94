"""How many cases a test runs: few by default, as many as asked for by `--oracle-cases`.

Defaults are the same on every run, so that the native code they need is in the cache of the second run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from . import areas
from .forms import Form

#: Hypothesis chooses the cases; derandomized, so that a run can be repeated, and without a database of examples.
SETTINGS = settings(
    max_examples=30,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


def chosen(forms: Sequence[Form]) -> st.SearchStrategy[list[tuple[Form, int]]]:
    """Lists of forms and seeds. A failing list shrinks to one case with a small seed."""
    pair = st.tuples(st.sampled_from(forms), st.integers(0, 1 << 16))
    return st.lists(pair, min_size=1, max_size=60)


def sweeps(config: pytest.Config, forms: Sequence[Form], default: int) -> Iterator[list[tuple[Form, int]]]:
    """Every form with `default` seeds, or as many as `--oracle-cases` asks for, in batches."""
    wanted = config.getoption("--oracle-cases", default=0)
    first = config.getoption("--oracle-seed", default=0) if wanted else 0
    rounds = -(-wanted // len(forms)) if wanted else default
    pairs = [(form, seed) for seed in range(first, first + rounds) for form in forms]
    size = areas.PLACES[forms[0].mode].slot_count
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]
