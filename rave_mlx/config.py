"""The one model description that the runtime knows: `LMMConfig` and its parts.

`convert/` translates foreign configurations into these classes; a rave directory stores them as `config.json`.
Unknown keys are refused by name, because a dropped key (a rotary base, say) changes a model's answers in silence.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from rave_mlx.errors import ConfigError

FORMAT = 1
"""Version of the rave directory layout; raised when an older reader could misread a newer directory."""


@dataclass(frozen=True)
class _Part:
    """A configuration section: strict reading, plain-JSON writing."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "config") -> Self:
        """Build the section from plain JSON values.

        Raises:
            ConfigError: for a key that is unknown, missing or of the wrong type; the message names it.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where}: expected an object, found {type(data).__name__}")
        hints = typing.get_type_hints(cls)
        known = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise ConfigError(f"{where}: unknown key{'s' * (len(unknown) > 1)} {', '.join(unknown)}")
        required = (n for n, f in known.items() if f.default is f.default_factory is dataclasses.MISSING)
        missing = sorted(n for n in required if n not in data)
        if missing:
            raise ConfigError(f"{where}: missing key{'s' * (len(missing) > 1)} {', '.join(missing)}")
        return cls(**{name: _read(value, hints[name], f"{where}.{name}") for name, value in data.items()})

    def to_dict(self) -> dict[str, Any]:
        """The section as plain JSON values; `from_dict` reads it back to an equal object."""
        return {f.name: _write(getattr(self, f.name)) for f in dataclasses.fields(self)}


def _read(value: Any, hint: Any, where: str) -> Any:
    """Check `value` (from JSON) against a type hint and convert lists to tuples, objects to sections."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        choices = [a for a in args if a is not type(None)]
        for choice in choices[:-1]:
            try:
                return _read(value, choice, where)
            except ConfigError:
                continue
        return _read(value, choices[-1], where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, found {value!r}")
        return tuple(_read(v, args[0], f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected an object, found {value!r}")
        return {str(k): _read(v, args[1], f"{where}.{k}") for k, v in value.items()}
    if isinstance(hint, type) and issubclass(hint, _Part):
        return value if isinstance(value, hint) else hint.from_dict(value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def _write(value: Any) -> Any:
    if isinstance(value, _Part):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_write(v) for v in value]
    if isinstance(value, dict):
        return {k: _write(v) for k, v in value.items()}
    return value


@dataclass(frozen=True)
class RopeConfig(_Part):
    """Rotary positions of the text decoder.

    `sections`: for multimodal RoPE (Qwen2-VL, arXiv 2409.12191), how many of the head_dim / 2 frequencies turn
    with the temporal, vertical and horizontal position; None for plain one-dimensional positions.
    """

    theta: float
    sections: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TextConfig(_Part):
    """The text decoder: pre-norm, grouped-query attention, SwiGLU."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeConfig
    max_positions: int
    norm_eps: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        _positive(self, "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_kv_heads", "head_dim")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(f"text: num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_dim % 2:
            raise ConfigError(f"text: head_dim {self.head_dim} is odd; rotary positions need pairs")
        if self.rope.sections is not None and sum(self.rope.sections) * 2 != self.head_dim:
            raise ConfigError(
                f"text.rope.sections {list(self.rope.sections)} must add up to head_dim / 2 = {self.head_dim // 2}"
            )


@dataclass(frozen=True)
class VisionConfig(_Part):
    """A vision tower of the Qwen2.5-VL shape (arXiv 2502.13923): patches at native resolution, 2-D rotary
    positions, attention within windows except in `full_attention_layers`.

    Units: `patch_size` and `window_size` are pixels; `merge_size` patches a side become one visual token.
    """

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    patch_size: int
    window_size: int
    full_attention_layers: tuple[int, ...]
    temporal_patch_size: int = 2
    merge_size: int = 2
    channels: int = 3
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        _positive(self, "depth", "hidden_size", "intermediate_size", "num_heads", "patch_size", "merge_size")
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 4:
            raise ConfigError(
                f"vision: hidden_size {self.hidden_size} must split over {self.num_heads} heads of a multiple of 4"
            )
        if self.window_size % (self.patch_size * self.merge_size):
            raise ConfigError(
                f"vision: window_size {self.window_size} is not a multiple of patch_size x merge_size "
                f"= {self.patch_size * self.merge_size}"
            )


@dataclass(frozen=True)
class ConnectorConfig(_Part):
    """From tower features to decoder embeddings: RMS norm, concatenate merge_size^2 patches, two-layer MLP."""

    hidden_size: int
    output_size: int
    norm_eps: float = 1e-6


@dataclass(frozen=True)
class ImageConfig(_Part):
    """How an image becomes patches. Pixels are scaled to [0, 1], then (pixel - mean) / std per channel.

    Both sides are rounded to multiples of `patch_size * merge_size`; the area is kept within
    [min_pixels, max_pixels] (in pixels), aspect kept.
    """

    patch_size: int
    min_pixels: int
    max_pixels: int
    temporal_patch_size: int = 2
    merge_size: int = 2
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    resample: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"

    @property
    def cell(self) -> int:
        """Side of the square of pixels behind one visual token."""
        return self.patch_size * self.merge_size


@dataclass(frozen=True)
class TokenConfig(_Part):
    """Ids of the tokens with a meaning for the runtime. `stop` ends an answer."""

    stop: tuple[int, ...]
    image: int | None = None
    bos: int | None = None
    pad: int | None = None


@dataclass(frozen=True)
class GateConfig(_Part):
    """The pair gate: RAVE (arXiv 2605.18359), our parametrisation; every choice the paper leaves open is a field.

    `rank` r of the pair term; `squash` phi with `limit` tau (used by tanh); `layers` "all" or the gated layers;
    `kv_groups` the share of KV groups gated in each layer (rounded, at least one), or their indices; `queries`
    which queries are biased; `features` what the gate reads.
    """

    rank: int = 14
    squash: Literal["tanh", "identity", "suppress", "boost"] = "tanh"
    limit: float = 4.0
    layers: Literal["all"] | tuple[int, ...] = "all"
    kv_groups: float | tuple[int, ...] = 0.5
    queries: Literal["all"] = "all"
    features: Literal["pre_rope"] = "pre_rope"

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
class QuantizationConfig(_Part):
    """How `.weight` tensors with `.scales` beside them are stored; `layers` overrides by canonical module name."""

    bits: int
    group_size: int
    mode: Literal["affine", "mxfp4", "mxfp8", "nvfp4"] = "affine"
    layers: dict[str, QuantizationConfig] = field(default_factory=dict)


@dataclass(frozen=True)
class LMMConfig(_Part):
    """A large multimodal model, or a text-only one when `vision` is None.

    `turns` "last": the model was trained on single questions, so a conversation shows it the latest images and the
    latest question only.
    """

    family: str
    text: TextConfig
    tokens: TokenConfig
    vision: VisionConfig | None = None
    connector: ConnectorConfig | None = None
    image: ImageConfig | None = None
    gate: GateConfig | None = None
    quantization: QuantizationConfig | None = None
    turns: Literal["all", "last"] = "all"
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
        absent = [name for name, part in parts.items() if part is None]
        if absent and len(absent) < len(parts):
            raise ConfigError(f"config: a model with images needs {', '.join(parts)}; missing: {', '.join(absent)}")
        if self.connector is not None and self.connector.output_size != self.text.hidden_size:
            raise ConfigError(
                f"connector.output_size {self.connector.output_size} differs from "
                f"text.hidden_size {self.text.hidden_size}"
            )
        if self.vision is not None and self.image is not None:
            for name in ("patch_size", "merge_size", "temporal_patch_size"):
                if getattr(self.vision, name) != getattr(self.image, name):
                    raise ConfigError(f"vision.{name} and image.{name} differ")
        if self.gate is not None:
            self._check_gate(self.gate)

    def _check_gate(self, gate: GateConfig) -> None:
        outside = [g for g in gate.groups(self.text.num_kv_heads) if not 0 <= g < self.text.num_kv_heads]
        if outside:
            raise ConfigError(f"gate.kv_groups {outside}: the model has KV groups 0 to {self.text.num_kv_heads - 1}")
        if isinstance(gate.layers, tuple):
            outside = [i for i in gate.layers if not 0 <= i < self.text.num_layers]
            if outside:
                raise ConfigError(f"gate.layers {outside}: the model has layers 0 to {self.text.num_layers - 1}")


def _positive(part: _Part, *names: str) -> None:
    for name in names:
        if getattr(part, name) < 1:
            raise ConfigError(f"{type(part).__name__}.{name} must be at least 1, found {getattr(part, name)}")
