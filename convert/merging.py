"""What the weights of a model become when an adapter is built into it: W' = W + scale (A B)^T.

DoRA (arXiv 2402.09353) brings the rows of the sum to its magnitudes; the embedding's update is A B itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx

from rave_mlx.checkpoint.adapter_config import EMBED, AdapterConfig
from rave_mlx.errors import ModelError


def changed_weights(config: AdapterConfig) -> frozenset[str]:
    """Canonical names of the weights that an adapter changes, apart from parts that it replaces and its gates."""
    vectors = {f"{module}.bias" for module in config.modules} if config.update_bias else set()
    matrices = {f"{module}.weight" for module in (*config.modules, *config.rows)}
    return frozenset(matrices | vectors | set(config.replaced))


def merged(name: str, weight: mx.array | None, config: AdapterConfig, weights: Mapping[str, mx.array]) -> mx.array:
    """A weight with what an adapter makes of it, in float32.

    Args:
        name: canonical; one of `changed_weights`.
        weight: the base's, unpacked; None where the base has none.
        config, weights: the adapter.

    Raises:
        ModelError: when the base has no such weight and the adapter brings none (a bias on a layer without).
    """
    module, _, leaf = name.rpartition(".")
    found = weights[name] if name in config.replaced else weight
    if found is None:
        raise ModelError(f"the adapter adds to {name}, which the model does not have; it cannot be built in, use it "
                         "as it is (--adapter)")  # fmt: skip
    found = found.astype(mx.float32)
    if leaf == "weight" and module in config.rows:
        found[mx.array(config.rows[module])] = weights[f"{module}.rows"].astype(mx.float32)
    if module not in config.modules:
        return found
    if leaf == "bias":
        vector = weights[f"{module}.lora_bias"].astype(mx.float32) if config.update_bias else None
        return found if vector is None else found + config.scale_of(module) * vector
    return _updated(found, module, config, weights) if leaf == "weight" else found


def _updated(matrix: mx.array, module: str, config: AdapterConfig, weights: Mapping[str, mx.array]) -> mx.array:
    """A matrix (out, in) with its update."""
    first, second = (weights[f"{module}.{leaf}"].astype(mx.float32) for leaf in ("lora_a", "lora_b"))
    product = first @ second
    changed = matrix + config.scale_of(module) * (product if module == EMBED else product.T)
    if config.kind == "lora":
        return changed
    magnitude = weights[f"{module}.m"].astype(mx.float32) / mx.linalg.norm(changed, axis=1)
    return magnitude[:, None] * changed
