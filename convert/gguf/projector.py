"""llama.cpp's second file of a vision-language model (`--mmproj`): the vision tower and the projector.

Each kind of projector says which family of models it belongs to, and what config.json and preprocessor_config.json of
that family would say. https://github.com/ggml-org/llama.cpp: tools/mtmd/clip.cpp, conversion/*.py (`MmprojModel`)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from rave_mlx.convert.gguf.container import Contents, read_files
from rave_mlx.convert.gguf.settings import Settings
from rave_mlx.convert.gguf.towers import Tower
from rave_mlx.convert.gguf.vocabulary import Vocabulary
from rave_mlx.errors import ModelError

_SIZES = (
    "vision.image_size", "vision.patch_size", "vision.embedding_length", "vision.block_count",
    "vision.attention.head_count",
)  # fmt: skip
_KNOWN = (
    *_SIZES, "vision.feed_forward_length", "vision.projection_dim", "vision.attention.layer_norm_epsilon",
    "vision.image_mean", "vision.image_std", "projector_type", "vision.projector_type", "use_gelu", "use_silu",
    "has_vision_encoder", "has_llava_projector",
)  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "has_text_encoder": (False,),
    "has_audio_encoder": (False,),
    "vision.mm_patch_merge_type": ("flat",),
    "vision.mm_projector_type": ("mlp2x_gelu",),
    "vision.is_deepstack_layers": (False,),
}
_ADVICE = "convert the original checkpoint instead"


@dataclass(frozen=True)
class Vision:
    """A vision tower with its projector, as a family of transformers has it.

    Attributes:
        stem: what precedes `layers` and `embed_tokens` in the names of the text model.
        config: keys of config.json, the text model's apart.
        processor: preprocessor_config.json.
        tensors: by transformers' names.
        image_text: the placeholder token of an image, and what a template writes for one.
        text_type: keys of the text model that differ inside this family.
    """

    stem: str
    config: dict[str, Any]
    processor: dict[str, Any]
    tensors: dict[str, mx.array]
    image_text: tuple[str, str]
    text_type: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Kind:
    """A kind of projector: the architectures of text it goes with, its further settings, and how it is read."""

    texts: tuple[str, ...]
    keys: tuple[str, ...]
    read: Callable[[Settings, Tower, Vocabulary], Vision]


def find_projector(path: Path, mmproj: Path | None, settings: Mapping[str, Any]) -> Path | None:
    """The projector's file: the one that is asked for, or the only one beside the text model.

    Raises:
        ModelError: when several lie there.
    """
    if mmproj is not None:
        return mmproj
    if settings.get("general.architecture") == "clip":
        return None
    beside = sorted(f for f in path.parent.glob("*.gguf") if "mmproj" in f.name.lower() and f != path)
    if len(beside) > 1:
        names = ", ".join(file.name for file in beside)
        raise ModelError(f"{path}: several vision towers lie beside it ({names}); name one with --mmproj")
    if not beside:
        return None
    print(f"rave-mlx: {path.name}: reads images with {beside[0].name}, which lies beside it", file=sys.stderr)
    return beside[0]


def read_projector(path: Path, architecture: str, vocabulary: Vocabulary) -> Vision:
    """The vision part of a model.

    Args:
        path: the projector's file.
        architecture: general.architecture of the text model.
        vocabulary: its tokens.

    Raises:
        ModelError: for a projector that is not supported, or that does not belong to the text model.
    """
    contents = read_files(path)
    given = Settings(path, contents.settings, "clip.")
    name = _name(path, contents, given)
    kind = _KINDS[name]
    if architecture not in kind.texts:
        raise ModelError(
            f"{path}: projector {name!r} belongs to a text model of architecture {' or '.join(kind.texts)}, "
            f"{vocabulary.path.name} is {architecture!r}"
        )
    given.refuse_unknown((*_KNOWN, *kind.keys), _NEUTRAL)
    given.need(*_SIZES, "vision.image_mean", "vision.image_std")
    return kind.read(given, Tower(path, contents.tensors), vocabulary)


def _name(path: Path, contents: Contents, given: Settings) -> str:
    if contents.settings.get("general.architecture") != "clip" or not given.flag("has_vision_encoder"):
        raise ModelError(f"{path}: is no vision tower (general.architecture clip with clip.has_vision_encoder)")
    if given.flag("has_audio_encoder"):
        raise ModelError(f"{path}: has an audio encoder, which is not supported")
    # LLaVA's first converter did not write the kind.
    name = given.text("projector_type", "") or given.text("vision.projector_type", "mlp")
    if name not in _KINDS:
        raise ModelError(f"{path}: projector {name!r} is not supported, only {', '.join(_KINDS)}; {_ADVICE}")
    return name


def _levels(given: Settings) -> dict[str, Any]:
    return {"image_mean": given.numbers("vision.image_mean"), "image_std": given.numbers("vision.image_std")}


def _tower(given: Settings, tower: Tower) -> dict[str, Any]:
    """Keys that CLIP, SigLIP and InternViT share."""
    return {
        "hidden_size": given.size("vision.embedding_length"),
        "intermediate_size": tower.inner,
        "num_hidden_layers": given.size("vision.block_count"),
        "num_attention_heads": given.size("vision.attention.head_count"),
        "image_size": given.size("vision.image_size"),
        "patch_size": given.size("vision.patch_size"),
        "layer_norm_eps": given.number("vision.attention.layer_norm_epsilon", 1e-5),
    }


def _token(vocabulary: Vocabulary, text: str, path: Path) -> int:
    index = vocabulary.find(text)
    if index is None:
        raise ModelError(
            f"{vocabulary.path}: has no token {text!r}, in whose place {path.name} puts images; convert the original "
            "checkpoint instead"
        )
    return index


def _llava(given: Settings, tower: Tower, vocabulary: Vocabulary) -> Vision:
    """LLaVA 1.5. The file holds the layers up to the one whose output is looked at, and not what follows."""
    if "v.class_embd" not in tower:
        raise ModelError(f"{given.path}: a LLaVA tower without class token (v.class_embd) is not supported; {_ADVICE}")
    clip = _tower(given, tower) | {"model_type": "clip_vision_model"}
    side, layers = clip["image_size"], given.numbers("vision.feature_layer") or [clip["num_hidden_layers"]]
    square = {"height": side, "width": side}
    config = {
        "model_type": "llava",
        "image_token_index": _token(vocabulary, "<image>", given.path),
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": layers,
        "vision_feature_select_strategy": "default",
        "vision_config": clip | {"hidden_act": "gelu" if given.flag("use_gelu") else "quick_gelu"},
    }
    processor = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": side}, "crop_size": square}
    return Vision(
        "model.language_model.",
        config,
        processor | _levels(given),
        tower.llava(clip["hidden_size"]),
        ("<image>", "<image>\n"),
    )


def _idefics3(given: Settings, tower: Tower, vocabulary: Vocabulary) -> Vision:
    """Idefics3 and SmolVLM, one layout. Their activation is SigLIP's, which llama.cpp calls gelu."""
    siglip = _tower(given, tower)
    tile = siglip["image_size"]
    config = {
        "model_type": "idefics3",
        "image_token_id": _token(vocabulary, "<image>", given.path),
        "scale_factor": given.size("vision.projector.scale_factor", 2),
        "vision_config": siglip | {"model_type": "idefics3_vision", "hidden_act": "gelu_pytorch_tanh"},
    }
    processor = {
        "size": {"longest_edge": given.size("vision.preproc_image_size", 4 * tile)},
        "max_image_size": {"longest_edge": tile},
        "do_image_splitting": True,
    }
    return Vision("model.text_model.", config, processor | _levels(given), tower.idefics3(), ("<image>", "<image>"))


def _internvl(given: Settings, tower: Tower, vocabulary: Vocabulary) -> Vision:
    """InternVL. Whether norms have biases tells their kind, as llama.cpp tells it by the size of InternViT-6B."""
    vit = _tower(given, tower)
    side, patch = vit["image_size"], vit["patch_size"]
    config = {
        "model_type": "internvl",
        "image_token_id": _token(vocabulary, "<IMG_CONTEXT>", given.path),
        "downsample_ratio": 1 / given.size("vision.projector.scale_factor", 2),
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "vision_config": vit
        | {
            "model_type": "internvl_vision",
            "image_size": [side, side],
            "patch_size": [patch, patch],
            "hidden_act": "silu" if given.flag("use_silu") else "gelu",
            "norm_type": "layer_norm" if "v.blk.0.ln1.bias" in tower else "rms_norm",
            "attention_bias": "v.blk.0.attn_q.bias" in tower,
            "use_qk_norm": "v.blk.0.attn_q_norm.weight" in tower,
            "use_mean_pooling": "v.post_ln.weight" not in tower,
        },
    }
    processor = {
        "size": {"height": side, "width": side},
        "min_patches": given.size("vision.preproc_min_tiles", 1),
        "max_patches": given.size("vision.preproc_max_tiles", 12),
    }
    return Vision(
        "model.language_model.",
        config,
        processor | _levels(given),
        tower.internvl(),
        ("<IMG_CONTEXT>", "<IMG_CONTEXT>\n"),
    )


def _qwen2(given: Settings, tower: Tower, vocabulary: Vocabulary) -> Vision:
    """Qwen2-VL. `hidden_size` of its tower is the text model's."""
    width = given.size("vision.embedding_length")
    vision = {
        "embed_dim": width,
        "hidden_size": given.size("vision.projection_dim"),
        "mlp_ratio": tower.inner / width,
        "hidden_act": "gelu" if given.flag("use_gelu") else "quick_gelu",
    }
    return _qwen(given, tower, vocabulary, "qwen2_vl", vision)


def _qwen2_5(given: Settings, tower: Tower, vocabulary: Vocabulary) -> Vision:
    """Qwen2.5-VL. Every n-th layer looks at the whole image; windows have the size that all its models have."""
    pattern, depth = given.size("vision.n_wa_pattern"), given.size("vision.block_count")
    vision = {
        "hidden_size": given.size("vision.embedding_length"),
        "out_hidden_size": given.size("vision.projection_dim"),
        "intermediate_size": tower.inner,
        "hidden_act": "silu",
        "window_size": given.size("vision.window_size", 112),
        "fullatt_block_indexes": list(range(pattern - 1, depth, pattern)),
    }
    return _qwen(given, tower, vocabulary, "qwen2_5_vl", vision)


def _qwen(given: Settings, tower: Tower, vocabulary: Vocabulary, family: str, vision: dict[str, Any]) -> Vision:
    merge, patch = given.size("vision.spatial_merge_size", 2), given.size("vision.patch_size")
    tokens = {
        f"{name}_id": _token(vocabulary, f"<|{text}|>", given.path)
        for name, text in (("image_token", "image_pad"), ("vision_start_token", "vision_start"))
    }
    config = {
        "model_type": family,
        **tokens,
        "vision_config": vision
        | {
            "depth": given.size("vision.block_count"),
            "num_heads": given.size("vision.attention.head_count"),
            "patch_size": patch,
            "spatial_merge_size": merge,
            "temporal_patch_size": 2,
        },
    }
    processor = {
        "patch_size": patch,
        "merge_size": merge,
        "temporal_patch_size": 2,
        # Of the published models; files say otherwise at most.
        "min_pixels": given.size("vision.image_min_pixels", 56 * 56),
        "max_pixels": given.size("vision.image_max_pixels", 12845056),
    }
    return Vision(
        "model.language_model.",
        config,
        processor | _levels(given),
        tower.qwen(given.size("vision.block_count")),
        ("<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>"),
        {"model_type": f"{family}_text"},
    )


_PIXELS = ("vision.spatial_merge_size", "vision.image_min_pixels", "vision.image_max_pixels")
_KINDS = {
    "mlp": _Kind(("llama", "mistral", "qwen2", "phi3"), ("vision.feature_layer",), _llava),
    "idefics3": _Kind(("llama",), ("vision.projector.scale_factor", "vision.preproc_image_size"), _idefics3),
    "internvl": _Kind(
        ("llama", "qwen2", "qwen3"),
        ("vision.projector.scale_factor", "vision.preproc_min_tiles", "vision.preproc_max_tiles"),
        _internvl,
    ),
    "qwen2vl_merger": _Kind(("qwen2vl",), _PIXELS, _qwen2),
    "qwen2.5vl_merger": _Kind(("qwen2vl",), (*_PIXELS, "vision.n_wa_pattern", "vision.window_size"), _qwen2_5),
}
"""By clip.projector_type."""
