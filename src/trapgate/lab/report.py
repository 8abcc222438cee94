"""The report of a run as plain data. docs/statistics.md describes every field."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trapgate import __version__
from trapgate.lab.statistics import SCHEMA_VERSION

if TYPE_CHECKING:
    from trapgate.lab.run import RunOutcome


def json_report(outcome: RunOutcome) -> dict[str, object]:
    """What `--json` writes. Everything outside `host` is the same on every run of the same inputs."""
    options = outcome.options
    return {
        "schema_version": SCHEMA_VERSION,
        "trapgate_version": __version__,
        "technique": options.technique,
        "costs": options.costs,
        "model": options.model,
        "guest": outcome.description,
        "processor": options.processor,
        "memory_bytes": options.memory_size,
        "max_instructions": options.max_instructions,
        "command": None if options.command is None else list(options.command),
        "end": {"reason": outcome.reason, "status": outcome.status},
        **outcome.statistics.guest_counts(),
        "host": outcome.statistics.host_counts(),
    }
