"""`python -m trapgate` is the `trapgate` command."""

from __future__ import annotations

from trapgate.cli.main import entry

entry()
