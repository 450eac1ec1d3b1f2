"""The README.md of a rave directory."""

from __future__ import annotations

from rave_mlx.config import LMMConfig


def card(config: LMMConfig, source: str) -> str:
    """A short model card: what this is, where it came from, how to use it."""
    gate = config.gate
    gated = "none" if gate is None else f"pair gates, rank {gate.rank}, {gate.squash}, layers {gate.layers}"
    return (
        f"---\nlibrary_name: rave-mlx\npipeline_tag: image-text-to-text\n---\n\n# {source}\n\n"
        f"A rave-mlx model directory converted from `{source}`.\n\n"
        f"- family: {config.family}\n- text: {config.text.num_layers} layers, width {config.text.hidden_size}, "
        f"vocabulary {config.text.vocab_size}\n- attention gates: {gated}\n\n"
        "```\nrave-mlx chat --model DIR --image page.png\n```\n"
    )
