"""A gate that cannot be is refused where it is described, not where a matrix product fails."""

from __future__ import annotations

import pytest
from support import tiny_config

from rave_mlx.config import GateConfig, LMMConfig
from rave_mlx.errors import ConfigError

REFUSED = [
    ({"rank": 0}, r"gate\.rank is 0; .* at least 1"),
    ({"rank": -3}, r"gate\.rank is -3"),
    ({"limit": 0.0}, r"gate\.limit is 0\.0; .* above 0"),
    ({"limit": -4.0}, r"gate\.limit is -4\.0"),
    ({"limit": float("nan")}, r"gate\.limit is nan"),
    ({"limit": float("inf")}, r"gate\.limit is inf"),
    ({"limit": -4.0, "squash": "identity"}, r"gate\.limit is -4\.0"),
    ({"kv_groups": 0.0}, r"gate\.kv_groups is 0\.0; a share .* above 0 and at most 1"),
    ({"kv_groups": -0.5}, r"gate\.kv_groups is -0\.5"),
    ({"kv_groups": 1.5}, r"gate\.kv_groups is 1\.5"),
    ({"kv_groups": float("nan")}, r"gate\.kv_groups is nan"),
    ({"kv_groups": (0, 0)}, r"gate\.kv_groups: 0 given more than once"),
    ({"kv_groups": (2, 0, 1, 2, 1)}, r"gate\.kv_groups: 1, 2 given more than once"),
    ({"kv_groups": (-1,)}, r"gate\.kv_groups \[-1\]: indices start at 0"),
    ({"kv_groups": ()}, r"gate\.kv_groups is empty"),
    ({"layers": (1, 1)}, r"gate\.layers: 1 given more than once"),
    ({"layers": (-1,)}, r"gate\.layers \[-1\]: indices start at 0"),
    ({"layers": ()}, r"gate\.layers is empty"),
]


@pytest.mark.parametrize(("values", "reason"), REFUSED, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_a_gate_that_cannot_be_is_refused(values, reason):
    with pytest.raises(ConfigError, match=reason):
        GateConfig(**values)
    as_json = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    with pytest.raises(ConfigError, match=r"gate\."):
        GateConfig.from_dict(as_json, "gate")


@pytest.mark.parametrize("values", [{"kv_groups": (0, 2)}, {"kv_groups": (1, 7)}, {"layers": (0, 3)}])
def test_indices_beyond_the_model_are_refused_with_its_sizes(values):
    with pytest.raises(ConfigError, match="the model has KV groups 0 to 1|the model has layers 0 to 2"):
        tiny_config(GateConfig(**values))


def test_gates_that_can_be():
    for gate in (
        GateConfig(),
        GateConfig(rank=1, limit=1e-3, kv_groups=1.0),
        GateConfig(kv_groups=(1, 0), layers=(2,)),
    ):
        config = tiny_config(gate)
        assert LMMConfig.from_dict(config.to_dict()) == config
