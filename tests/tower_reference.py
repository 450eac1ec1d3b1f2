"""A vision tower of tiles (CLIP, SigLIP) in float64 NumPy, for the attention of its layers."""

import numpy as np
from policy_watch import softmax


def tower_attention(lmm, pixels):
    """Attention (heads, L, L) of every layer for the patches of one tile; the class token, if any, comes first."""
    weights = {n: np.array(w).astype(np.float64) for n, w in lmm.named_weights().items() if n.startswith("vision.")}
    config = lmm.config.vision
    act = {"gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
           "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x))}[config.activation]  # fmt: skip

    def norm(x, name):
        normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + config.norm_eps)
        return normed * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    x = linear(pixels.astype(np.float64), "vision.patch_embed")
    if config.class_token:
        x = np.concatenate([weights["vision.class_token"][None], x])
    x = x + weights["vision.positions"]
    x = norm(x, "vision.pre_norm") if config.pre_norm else x
    found = []
    for at in (f"vision.layers.{index}" for index in range(sum(n.endswith("norm1.weight") for n in weights))):
        normed = norm(x, f"{at}.norm1")
        q, k, v = (
            linear(normed, f"{at}.attention.{n}_proj").reshape(len(x), config.num_heads, -1).swapaxes(0, 1)
            for n in "qkv"
        )
        found.append(softmax(q @ k.swapaxes(1, 2) * q.shape[-1] ** -0.5))
        x = x + linear((found[-1] @ v).swapaxes(0, 1).reshape(len(x), -1), f"{at}.attention.o_proj")
        x = x + linear(act(linear(norm(x, f"{at}.norm2"), f"{at}.mlp.fc1")), f"{at}.mlp.fc2")
    return found
