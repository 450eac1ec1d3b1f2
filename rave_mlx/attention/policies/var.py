"""VAR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rave_mlx.attention.policies.base import Policy


@dataclass(frozen=True)
class VAR(Policy):
    """Visual Attention Redistribution."""

    name: ClassVar[str] = "var"
