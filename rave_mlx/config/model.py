"""`LMMConfig`, the one model description that the runtime knows, with what belongs to no single part of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from rave_mlx.config.connector import CellConnectorConfig, Connector, MeanConnectorConfig
from rave_mlx.config.image import Images
from rave_mlx.config.part import Part
from rave_mlx.config.query_vision import QueryVisionConfig, check_views
from rave_mlx.config.sink_gate import SinkGateConfig
from rave_mlx.config.text import TextConfig
from rave_mlx.config.tower import Tower
from rave_mlx.errors import ConfigError

FORMAT = 1
"""Version of the rave directory layout; raised when an older reader could misread a newer directory."""


_MODES = {
    "affine": ((2, 3, 4, 5, 6, 8), (32, 64, 128)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}
"""Widths in bits and group sizes of each mode of `mx.quantize`."""


_FITTING: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "native": ("native", ("merger", "downsample", "rows"), ("patch_size", "merge_size", "temporal_patch_size")),
    "grid": ("native", ("cells",), ("patch_size", "merge_size")),
    "axial": ("native", ("means",), ("patch_size", "merge_size")),
    "patches": ("native", ("means",), ("patch_size", "merge_size")),
    "tiles": ("tiles", ("mlp", "shuffle", "resampler", "pool", "paths"), ("patch_size", "tile_size")),
    "windows": ("tiles", ("convolutions",), ("patch_size", "tile_size")),
    "queries": ("tiles", ("views",), ("patch_size",)),
}
"""By kind of tower: the images it reads, the connectors that follow it, and the sizes it shares with the images."""


@dataclass(frozen=True)
class AddedTokenConfig(Part):
    """A token that a checkpoint's tokenizer has beyond its `tokenizer.json`, or with other settings than there.

    Attributes:
        content: its text.
        single_word: whether it counts only where it is a word of its own.
        lstrip, rstrip: whether it swallows the white space before and after it.
        normalized: whether it is looked for in the normalized text.
        special: whether it is a control token and no text.
    """

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = True


@dataclass(frozen=True)
class TokenConfig(Part):
    """The tokens with a meaning for the runtime.

    Attributes:
        stop: ids that end an answer; one outside the vocabulary never comes and does no harm.
        image: id that visual tokens have, and of the placeholder that the chat template writes for an image.
        placeholder: id of that placeholder where it is another (Gemma 3).
        bos, pad: ids of the start token and of the padding token.
        answer: id of the token where an answer begins.
        named: the special tokens that the chat template sees as variables, as {"bos_token": "<s>"}. None: the start
            token, and the first stop token as `eos_token`.
        added: tokens beyond those of `tokenizer.json`, in the order in which they are added.
    """

    stop: tuple[int, ...]
    image: int | None = None
    placeholder: int | None = None
    bos: int | None = None
    pad: int | None = None
    answer: int | None = None
    named: dict[str, str] | None = None
    added: tuple[AddedTokenConfig, ...] = ()

    def __post_init__(self) -> None:
        if not self.stop:
            raise ConfigError("tokens.stop is empty; without a token that ends it an answer has no end")


@dataclass(frozen=True)
class GateConfig(Part):
    """The pair gate: RAVE (arXiv 2605.18359), our parametrisation; every choice the paper leaves open is a field.

    Attributes:
        rank: r of the pair term.
        squash: phi, the function that the bias passes through.
        limit: tau, the bound of the bias (used by tanh).
        layers: "all", those with attention; or the gated decoder layers.
        kv_groups: share of the KV groups gated in each layer (rounded, at least one), or their indices.
        queries: which queries are biased.
        features: what the gate reads: queries and keys before rotation.
    """

    rank: int = 14
    squash: Literal["tanh", "identity", "suppress", "boost"] = "tanh"
    limit: float = 4.0
    layers: Literal["all"] | tuple[int, ...] = "all"
    kv_groups: float | tuple[int, ...] = 0.5
    queries: Literal["all"] = "all"
    features: Literal["pre_rope"] = "pre_rope"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"gate.rank is {self.rank}; the pair term needs a rank of at least 1")
        if not 0 < self.limit < math.inf:
            raise ConfigError(f"gate.limit is {self.limit}; the bound of the bias must be a number above 0")
        if isinstance(self.kv_groups, tuple):
            _check_indices("gate.kv_groups", self.kv_groups)
        elif not 0 < self.kv_groups <= 1:
            raise ConfigError(f"gate.kv_groups is {self.kv_groups}; a share of the KV groups is above 0 and at most 1")
        if isinstance(self.layers, tuple):
            _check_indices("gate.layers", self.layers)

    @property
    def width(self) -> int:
        """R = r + 2: the pair features plus the query-only and the key-only term."""
        return self.rank + 2

    def groups(self, num_kv_heads: int) -> tuple[int, ...]:
        """Indices of the gated KV groups."""
        if isinstance(self.kv_groups, tuple):
            return self.kv_groups
        return tuple(range(max(1, round(self.kv_groups * num_kv_heads))))

    def gates_layer(self, layer: int) -> bool:
        """Whether decoder layer `layer` has a gate."""
        return self.layers == "all" or layer in self.layers


@dataclass(frozen=True)
class QuantizationConfig(Part):
    """How weights are stored in few bits: `.weight` packed, with `.scales` (and `.biases` when affine) beside it.

    The modes are those of `mx.quantize`. "affine": 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128 weights of a
    row; the others have one width and one group size each.

    Attributes:
        bits: width of a weight.
        group_size: weights of a row that share a scale.
        mode: see above.
        layers: other settings by canonical module name, or by the name of a part of the model ("vision",
            "decoder.layers.0"); the longest name counts. None: left as it is.
    """

    bits: int
    group_size: int
    mode: Literal["affine", "mxfp4", "mxfp8", "nvfp4"] = "affine"
    layers: dict[str, QuantizationConfig | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise ConfigError(f"quantization: mode {self.mode!r} is not one of {', '.join(_MODES)}")
        widths, groups = _MODES[self.mode]
        if self.bits not in widths or self.group_size not in groups:
            raise ConfigError(
                f"quantization: {self.mode} has {_either(widths)} bits in groups of {_either(groups)}, "
                f"not {self.bits} in {self.group_size}"
            )
        nested = [name for name, inner in self.layers.items() if inner is not None and inner.layers]
        if nested:
            raise ConfigError(f"quantization.layers.{nested[0]}: layers within layers have no meaning")

    def of(self, module: str) -> QuantizationConfig | None:
        """What holds for a module; None when it is left as it is."""
        name = module
        while name:
            if name in self.layers:
                return self.layers[name]
            name = name.rpartition(".")[0]
        return self


@dataclass(frozen=True)
class LMMConfig(Part):
    """A large multimodal model, or a text-only one when `vision` is None.

    Attributes:
        family: name of the architecture that it was converted from.
        text: the decoder.
        tokens: ids with a meaning for the runtime.
        vision, connector, image: the tower, the way from its features to the decoder, and how images are cut for it.
        gate: the pair gates; None for a model without.
        sink_gate: the sink gates (LSG); None for a model without.
        quantization: how weights are packed; None where they are not.
        turns: "last": the model was trained on single questions, so a conversation shows it the latest images and the
            latest question only.
        attention: the policy, as after `--attention`, that a conversation uses unless another is chosen.
        mask: "mutual": the tokens of an image also see the rest of their turn, up to the token `tokens.answer`
            (modality-mutual attention, arXiv 2503.02597). "image": the tokens of an image see each other (Gemma 3).
            "windows": they do so in layers with a sliding window alone (Gemma 4). "whole": they do so in all layers, in
            windows too short for the image as well (Gemma 4's unified models).
        format: version of the directory's layout.
    """

    family: str
    text: TextConfig
    tokens: TokenConfig
    vision: Tower | None = None
    connector: Connector | None = None
    image: Images | None = None
    gate: GateConfig | None = None
    sink_gate: SinkGateConfig | None = None
    quantization: QuantizationConfig | None = None
    turns: Literal["all", "last"] = "all"
    attention: str | None = None
    mask: Literal["causal", "mutual", "image", "windows", "whole"] = "causal"
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ConfigError(
                f"config.format is {self.format}, this version of rave-mlx reads {FORMAT}; "
                "convert the model again, or upgrade rave-mlx"
            )
        parts = {
            "vision": self.vision,
            "connector": self.connector,
            "image": self.image,
            "tokens.image": self.tokens.image,
        }
        for name, value in (
            ("text.norm_eps", self.text.norm_eps),
            ("vision.norm_eps", 1.0 if self.vision is None else self.vision.norm_eps),
            ("connector.norm_eps", getattr(self.connector, "norm_eps", 1.0)),
            ("text.rope.theta", self.text.rope.theta),
        ):
            if not value > 0:
                raise ConfigError(f"config.{name} is {value}; it must be above 0")
        absent = [name for name, part in parts.items() if part is None]
        if absent and len(absent) < len(parts):
            raise ConfigError(f"config: a model with images needs {', '.join(parts)}; missing: {', '.join(absent)}")
        if self.connector is not None and self.connector.output_size != self.text.hidden_size:
            raise ConfigError(
                f"connector.output_size {self.connector.output_size} differs from "
                f"text.hidden_size {self.text.hidden_size}"
            )
        if self.vision is not None and self.image is not None and self.connector is not None:
            self._check_images(self.vision, self.image, self.connector)
        if self.mask == "mutual" and self.tokens.answer is None:
            raise ConfigError("config: the mutual mask needs tokens.answer, the token that starts an answer")
        if self.gate is not None:
            self._check_gate(self.gate)
        if self.sink_gate is not None:
            self._check_sink_gate(self.sink_gate)

    def gates_layer(self, layer: int) -> bool:
        """Whether decoder layer `layer` has a pair gate."""
        return self.gate is not None and self.gate.gates_layer(layer) and layer in self.text.key_layers

    def _check_images(self, vision: Tower, image: Images, connector: Connector) -> None:
        """Refuse parts that do not fit each other."""
        images, connectors, same = _FITTING[vision.kind]
        if image.kind != images or connector.kind not in connectors:
            raise ConfigError(
                f"config: a {vision.kind} tower does not go with {image.kind} images and a {connector.kind} connector"
            )
        for name in same:
            if getattr(vision, name) != getattr(image, name):
                raise ConfigError(f"vision.{name} and image.{name} differ")
        if isinstance(vision, QueryVisionConfig) and image.kind == "tiles":
            check_views(vision, image)
        if isinstance(connector, CellConnectorConfig | MeanConnectorConfig):
            if getattr(vision, "merge_size", None) != connector.merge_size:
                raise ConfigError("vision.merge_size and connector.merge_size differ")
            if image.kind == "native" and image.temporal_patch_size != 1:
                raise ConfigError(f"image.temporal_patch_size must be 1 for a tower of kind {vision.kind}")

    def _check_gate(self, gate: GateConfig) -> None:
        counts = [self.text.kv_heads_of(i) for i in range(self.text.num_layers) if self.gates_layer(i)]
        fewest = min(counts, default=self.text.num_kv_heads)
        outside = [g for g in gate.groups(fewest) if not 0 <= g < fewest]
        if outside:
            raise ConfigError(f"gate.kv_groups {outside}: the model has KV groups 0 to {fewest - 1}")
        if isinstance(gate.layers, tuple):
            outside = [i for i in gate.layers if not 0 <= i < self.text.num_layers]
            if outside:
                raise ConfigError(f"gate.layers {outside}: the model has layers 0 to {self.text.num_layers - 1}")
            linear = [i for i in gate.layers if self.text.is_linear(i)]
            if linear:
                known = ", ".join(map(str, self.text.attention_layers))
                raise ConfigError(f"gate.layers {linear}: linear attention has no scores to gate; layers with: {known}")
            borrowed = [i for i in gate.layers if i not in self.text.key_layers]
            if borrowed:
                known = ", ".join(map(str, self.text.key_layers))
                raise ConfigError(f"gate.layers {borrowed} use the keys of other layers; those with their own: {known}")

    def _check_sink_gate(self, gate: SinkGateConfig) -> None:
        if self.vision is None:
            raise ConfigError("config.sink_gate: the model reads text only and has no visual keys to scale")
        outside = [i for i in gate.layers if i not in self.text.key_layers]
        if outside:
            known = ", ".join(map(str, self.text.key_layers))
            raise ConfigError(f"sink_gate.layers {outside}: the model's layers with attention are {known}")


def _check_indices(name: str, indices: tuple[int, ...]) -> None:
    """Refuse a list of indices that is empty, counts from the end or names one twice."""
    if not indices:
        raise ConfigError(f"{name} is empty; a model without gates has no gate section")
    below = [i for i in indices if i < 0]
    if below:
        raise ConfigError(f"{name} {below}: indices start at 0")
    doubled = sorted({i for i in indices if indices.count(i) > 1})
    if doubled:
        raise ConfigError(f"{name}: {', '.join(map(str, doubled))} given more than once")


def _either(numbers: tuple[int, ...]) -> str:
    """Numbers in words: "2, 3 or 4"."""
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last
