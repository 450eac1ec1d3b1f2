"""The README.md of a rave directory: what it is, where it came from, byte for byte, and how to use it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rave_mlx.checkpoint import directory
from rave_mlx.config import GateConfig, LMMConfig, QuantizationConfig
from rave_mlx.convert.stored import Stored

_LICENSE = re.compile(r"(license|license_name|license_link): *(\S.*)")


@dataclass(frozen=True)
class Origin:
    """Where a model came from.

    Attributes:
        name: Hub id, or the name of a folder.
        commit: the Hub's commit; None for a folder.
        hashes: SHA-256 of its files, by name.
        license: `license`, `license_name` and `license_link` of its own card, where given.
    """

    name: str
    commit: str | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    license: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, stored: Stored, hashes: Mapping[str, str]) -> Origin:
        """The origin of what is converted from a stored model, whose files have these hashes."""
        return cls(stored.name, stored.commit, hashes, _read_license(stored.path / directory.CARD))


def card(config: LMMConfig, origin: Origin) -> str:
    """The model card, with the YAML header that the Hub reads."""
    text, vision = config.text, config.vision
    facts = [
        f"converted from: `{origin.name}`" + (f" at commit `{origin.commit}`" if origin.commit else ""),
        f"family: {config.family}",
        f"text: {text.num_layers} layers, width {text.hidden_size}, vocabulary {text.vocab_size}",
        f"images: {'none, text only' if vision is None else f'{vision.depth} layers in the vision tower'}",
        f"quantization: {describe_quantization(config.quantization)}",
        f"attention gates: {describe_gate(config.gate)}",
    ]
    hashes = "\n".join(f"{digest}  {name}" for name, digest in sorted(origin.hashes.items()))
    sections = [
        f"# {origin.name} for rave-mlx",
        "\n".join(f"- {fact}" for fact in facts),
        "## Use",
        "```\npip install rave-mlx\nrave-mlx chat --model DIR_OR_HUB_ID --image page.png\n```"
        if config.vision is not None
        else "```\npip install rave-mlx\nrave-mlx chat --model DIR_OR_HUB_ID\n```",
    ]
    if hashes:
        sections += ["## Source files (SHA-256)", f"```\n{hashes}\n```"]
    return f"{_front_matter(config, origin)}\n" + "\n\n".join(sections) + "\n"


def describe_quantization(quantization: QuantizationConfig | None) -> str:
    """One line."""
    if quantization is None:
        return "none"
    others = sorted({q.bits for q in quantization.layers.values() if q is not None} - {quantization.bits})
    mixed = f", some layers with {' or '.join(map(str, others))} bits" if others else ""
    return f"{quantization.mode}, {quantization.bits} bits in groups of {quantization.group_size}{mixed}"


def describe_gate(gate: GateConfig | None) -> str:
    """One line."""
    if gate is None:
        return "none"
    layers = "all layers" if gate.layers == "all" else f"layers {', '.join(map(str, gate.layers))}"
    return f"pair gates of rank {gate.rank}, {gate.squash}, {layers}"


def _front_matter(config: LMMConfig, origin: Origin) -> str:
    """YAML, whose strings are JSON's."""
    tags = ["mlx", "rave-mlx", config.family, *(["rave"] if config.gate else [])]
    fields: dict[str, object] = {
        "library_name": "rave-mlx",
        "pipeline_tag": "text-generation" if config.vision is None else "image-text-to-text",
        "tags": tags,
        **origin.license,
    }
    if origin.commit is not None:
        fields["base_model"] = origin.name
        if config.quantization is not None:
            fields["base_model_relation"] = "quantized"
    lines = (f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items())
    return "\n".join(["---", *lines, "---", ""])


def _read_license(file: Path) -> dict[str, str]:
    """What the header of another card says about its license."""
    if not file.is_file():
        return {}
    start, *rest = file.read_text(encoding="utf-8", errors="replace").splitlines()[:200] or [""]
    if start.strip() != "---":
        return {}
    found: dict[str, str] = {}
    for line in rest:
        if line.strip() == "---":
            return found
        match = _LICENSE.fullmatch(line.rstrip())
        if match:
            found[match[1]] = match[2].strip("\"'")
    return {}
