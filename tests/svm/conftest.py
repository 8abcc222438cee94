"""Compiled handlers, shared by all tests and with the user's cache."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import pytest

from engine.harness import Guest
from svm.world import World
from trapgate.arch.cpuid import OPTERON_2007, CpuProfile
from trapgate.engine.handlers import HandlerStore

#: Features of AMD-V that later processors have.
LATER = frozenset(
    ("NP", "LBR_VIRT", "SVM_LOCK", "NRIP_SAVE", "FLUSH_BY_ASID", "DECODE_ASSISTS", "PAUSE_FILTER",
     "PAUSE_FILTER_THRESHOLD", "VMCB_CLEAN")
)  # fmt: skip


class Make(Protocol):
    """Makes worlds: with the features of OPTERON_2007, or with others."""

    def __call__(self, features: frozenset[str] | None = None, profile: CpuProfile = OPTERON_2007) -> World: ...


@pytest.fixture(scope="session")
def handlers() -> HandlerStore:
    """Compiled handlers."""
    return HandlerStore()


@pytest.fixture
def world(handlers: HandlerStore) -> Make:
    """Makes worlds."""

    def make(features: frozenset[str] | None = None, profile: CpuProfile = OPTERON_2007) -> World:
        if features is not None:
            profile = dataclasses.replace(profile, svm_features=features)
        return World(Guest(handlers, profile=profile))

    return make
