"""Gemma 4's unified models: the pixels of large patches reach the decoder without a tower, and the tokens of an image
see each other in all layers. What is said about sound is left out."""

from __future__ import annotations

from rave_mlx.config import LMMConfig, MeanConnectorConfig, PatchVisionConfig
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.gemma3 import ended, token_id
from rave_mlx.convert.families.gemma4 import ERAS, IMAGE, UNEXPORTED, read_images, stem_of
from rave_mlx.convert.families.gemma4_text import TEXT as SMALL
from rave_mlx.convert.families.gemma4_text import decoder_origin, is_unused, read_decoder, read_mask
from rave_mlx.convert.families.text import read_gate, read_tokens
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source

TEXT: HubConfig = {
    **{name: value for name, value in SMALL.items() if not name.endswith("_per_layer_input")},
    "max_position_embeddings": 262144,
    "sliding_window": 1024,
}
"""What a configuration leaves out of the decoder."""
VISION: HubConfig = {
    "patch_size": 16,
    "pooling_kernel_size": 3,
    "mm_embed_dim": 3840,
    "mm_posemb_size": 1120,
    "rms_norm_eps": 1e-6,
    "output_proj_dims": 3840,
}
"""What a configuration leaves out of the way from pixels to the decoder."""
_ALIEN = {"hidden_size_per_layer_input": 0, "enable_moe_block": False}
"""Parts of other Gemma 4 decoders, which transformers does not read here."""
_MODULES = {
    "vision.pre_norm": "patch_ln1",
    "vision.patch_embed": "patch_dense",
    "vision.norm": "patch_ln2",
    "vision.post_norm": "pos_norm",
    "connector.projection": "multimodal_embedder.embedding_projection",
}


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole = Keys(source.config, str(source.path / "config.json"))
    section = whole.section("text_config")
    section.require("model_type", "gemma4_unified_text")
    part = Keys({**TEXT, **source.config["text_config"], **_ALIEN}, section.where)
    decoder = read_decoder(
        part, tied=whole.get("tie_word_embeddings", bool, part.get("tie_word_embeddings", bool, True))
    )
    gate = read_gate(whole, source.config)
    if whole.get("vision_config", dict, None) is None:
        tokens = read_tokens(source, ended(whole, source), part)
        return LMMConfig(family="gemma4_unified", text=decoder, tokens=tokens, gate=gate)
    vision = Keys({**VISION, **source.config["vision_config"]}, f"{whole.where}.vision_config")
    vision.require("model_type", "gemma4_unified_vision")
    width, pool = vision.need("mm_embed_dim", int), vision.need("pooling_kernel_size", int)
    vision.require("output_proj_dims", width)
    side = vision.need("patch_size", int) * pool
    vision.require("model_patch_size", side)
    return LMMConfig(
        family="gemma4_unified",
        text=decoder,
        tokens=read_tokens(source, ended(whole, source), part, image=token_id(whole, "image", IMAGE)),
        vision=PatchVisionConfig(width, side, vision.need("mm_posemb_size", int)),
        connector=MeanConnectorConfig(width, 1, decoder.hidden_size, vision.need("rms_norm_eps", float), widen=False),
        image=read_images(source, whole, side // pool if pool > 0 else 0, pool, joined=True),
        gate=gate,
        mask=read_mask(part, "vision", "whole"),  # type: ignore[arg-type]  # one of the masks
    )


def text_config(source: Source) -> LMMConfig:
    """The canonical configuration of a decoder alone (`gemma4_unified_text`).

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole = Keys({**TEXT, **source.config, **_ALIEN}, str(source.path / "config.json"))
    return LMMConfig(
        family="gemma4_unified_text",
        text=read_decoder(whole, tied=whole.get("tie_word_embeddings", bool, True)),
        tokens=read_tokens(source, ended(whole, source), whole),
        gate=read_gate(whole, source.config),
    )


def origin(canonical: str, config: LMMConfig, hub: HubConfig) -> Origin:
    """Where a canonical tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    if canonical.startswith("decoder."):
        return decoder_origin(canonical, config, hub, stem_of(config, hub))
    if canonical == "vision.positions":
        return Origin("model.embed_vision.pos_embedding")
    module, _, leaf = canonical.rpartition(".")
    return Origin(f"model.embed_vision.{_MODULES[module]}.{leaf}")


def left_out(name: str, config: LMMConfig, hub: HubConfig) -> bool:
    """Whether a tensor is of keys that a layer does not use.

    Args:
        name: of the tensor, a modern one.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    return is_unused(name, config, stem_of(config, hub))


_ERAS = (("vision_embedder.", "model.vision_embedder."), *ERAS)
"""Names of mlx-vlm."""
RENAMES = (
    (r"^model\.vision_embedder\.", "model.embed_vision."),
    (r"^model\.embed_vision\.embedding_projection\.", "model.embed_vision.multimodal_embedder.embedding_projection."),
)
"""Names that transformers reads and writes, which are not those of its parameters."""
PUBLISHED = (
    (r"^model\.embed_vision\.multimodal_embedder\.", "model.embed_vision."),
    (r"^model\.embed_vision\.(?!embedding_projection)", "model.vision_embedder."),
)
IGNORED = (r"model\.embed_audio\..*",)
"""The way from sound to the decoder, which is not taken."""
FAMILY = Family(
    config,
    origin,
    _ERAS,
    IGNORED,
    renames=RENAMES,
    left_out=left_out,
    unexported=UNEXPORTED,
    published=PUBLISHED,
)
TEXT_FAMILY = Family(text_config, origin, left_out=left_out)
