"""Attention policies for test_policies.py: every module here has a list SUBJECTS, one entry a policy and setting."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass

from rave_mlx.policies.policy import Policy


@dataclass(frozen=True)
class Subject:
    """One policy with settings under which it changes the tiny model of `support` (hidden size 48).

    Attributes:
        name: of the test case.
        active: a policy that changes the tiny model's logits.
        neutral: the same policy with settings under which nothing changes; None where there are none.
        decodes: reading an answer gives what writing it gave.
        batches: several prompts can be read at once.
    """

    name: str
    active: Policy
    neutral: Policy | None
    decodes: bool = True
    batches: bool = True


def subjects() -> list[Subject]:
    """All entries, by module."""
    modules = [importlib.import_module(f"policy_subjects.{module.name}") for module in pkgutil.iter_modules(__path__)]
    found = [subject for module in modules for subject in module.SUBJECTS]
    assert len({subject.name for subject in found}) == len(found)
    return found
