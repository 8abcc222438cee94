"""What tests of several files begin with."""

from __future__ import annotations

import pytest

from .nic_world import Nic


@pytest.fixture
def nic() -> Nic:
    """An 82540EM that its driver has started."""
    found = Nic()
    found.start()
    return found
