"""The policies by name. A new one is a file of its own and a line here."""

from __future__ import annotations

from rave_mlx.attention.policies.base import Policy
from rave_mlx.attention.policies.mma import MMA
from rave_mlx.attention.policies.var import VAR

POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (VAR, MMA)}
