"""DeepSeek-OCR 2 (arXiv 2601.20552): SAM's tower, an encoder of learned queries, DeepSeek's decoder with experts."""

from __future__ import annotations

from rave_mlx.config import LMMConfig, Overview, QueryVisionConfig, TileConfig, ViewConnectorConfig
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.deepseek import NAMES, TEXT, read_decoder
from rave_mlx.convert.families.deepseek_published import modern_config
from rave_mlx.convert.families.sam import read_sam, sam_origin
from rave_mlx.convert.families.square_images import processor_keys
from rave_mlx.convert.families.text import read_gate, read_tokens, text_origin
from rave_mlx.convert.families.towers import ACTIVATIONS
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.rope import read_rope
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

ENCODER: HubConfig = {
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
}
"""Defaults of the encoder."""
QUERIES = (144, 256)
"""Queries of a view of up to 768 pixels, and of a larger one."""
IMAGE = 128815
"""Id of an image's token, where none is given."""
TEMPLATE = (
    "{{ bos_token | default('') }}{% for message in messages %}{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}"
    "{% endif %}{% endfor %}{% endif %}{% if message.role == 'assistant' %}{{ eos_token | default('') }}{% endif %}"
    "{% endfor %}"
)
"""What the published code writes, which takes one question; its checkpoints bring no template."""

_TOWER = "model.vision_tower."
_SAM = f"{_TOWER}sam_encoder."
_ENCODER = {
    "attention": "self_attn",
    "input_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
}
_QUERIES = ("query_768_resolution", "query_1024_resolution")


def config(source: Source) -> LMMConfig:
    """The canonical configuration.

    Raises:
        ConfigError: for settings that are missing, malformed or not supported.
    """
    whole = Keys(modern_config(source), str(source.path / "config.json"))
    part = whole.section("text_config")
    part.require("model_type", "deepseek_ocr2_text")
    text = part.over(TEXT)
    tower, decoder = _tower(whole.section("vision_config")), read_decoder(text, whole)
    return LMMConfig(
        family="deepseek_ocr2",
        text=decoder,
        tokens=read_tokens(source, whole, text, image=whole.get("image_token_id", int, IMAGE)),
        vision=tower,
        connector=ViewConnectorConfig(tower.hidden_size, decoder.hidden_size),
        image=_images(source, tower),
        gate=read_gate(whole, source.config),
    )


def _tower(vision: Keys) -> QueryVisionConfig:
    """The tower of SAM and the encoder above it, over the defaults of their classes."""
    vision.require("model_type", "deepseek_ocr2_vision")
    sam, encoder = vision.section("sam_config"), vision.section("encoder_config").over(ENCODER)
    sam.require("model_type", "deepseek_ocr2_sam_vision_model")
    encoder.require("model_type", "deepseek_ocr2_encoder")
    encoder.require("use_sliding_window", False)
    depth = encoder.need("num_hidden_layers", int)
    kinds = encoder.get("layer_types", list, ["full_attention"] * depth)
    if kinds != ["full_attention"] * depth:
        raise ConfigError(f"{encoder.where}: layer_types {kinds} is not supported, only full_attention in every layer")
    hidden, heads = encoder.need("hidden_size", int), encoder.need("num_attention_heads", int)
    width = encoder.get("head_dim", int, None)
    if width is None and (heads < 1 or hidden % heads):
        raise ConfigError(f"{encoder.where}: hidden_size {hidden} does not split over {heads} heads")
    middle, last = _channels(sam)
    if last != hidden:
        raise ConfigError(f"{sam.where}: downsample_channels ends in {last}, encoder_config has hidden_size {hidden}")
    width_of_mlp = int(sam.get("hidden_size", int, 768) * sam.get("mlp_ratio", float, 4.0))
    return QueryVisionConfig(
        patches=read_sam(sam, width_of_mlp),
        middle_size=middle,
        depth=depth,
        hidden_size=hidden,
        intermediate_size=encoder.need("intermediate_size", int),
        num_heads=heads,
        num_kv_heads=encoder.need("num_key_value_heads", int),
        head_dim=hidden // heads if width is None else width,
        rope=read_rope(encoder, default_theta=10000.0),
        queries=QUERIES,
        norm_eps=encoder.need("rms_norm_eps", float),
        activation=encoder.choice("hidden_act", ACTIVATIONS, "silu"),
    )


def _channels(sam: Keys) -> tuple[int, int]:
    """Widths after the two convolutions that halve the sides."""
    widths = sam.get("downsample_channels", list, [512, 896])
    if len(widths) != 2 or not all(type(width) is int for width in widths):
        raise ConfigError(f"{sam.where}: downsample_channels {widths!r} should be two widths")
    return widths[0], widths[1]


def _images(source: Source, tower: QueryVisionConfig) -> TileConfig:
    """Pre-processing of DeepseekOcr2ImageProcessor: tiles of a large page, then all of it."""
    keys = processor_keys(source)
    size = keys.get("size", dict, {"height": 1024, "width": 1024})
    if size.get("height") != size.get("width") or not isinstance(size.get("height"), int):
        raise ConfigError(f"{keys.where}: size {size} should have equal height and width")
    tile = keys.get("tile_size", int, 768)
    alone = not keys.get("crop_to_patches", bool, True)
    # Without tiles the processor takes their size for the view of the whole.
    whole = tile if alone else int(size["height"])
    if min(tile, whole) < tower.patch_size:
        raise ConfigError(f"{keys.where}: views of {min(tile, whole)} pixels hold no patch of {tower.patch_size}")
    color = keys.numbers("background_color", (127, 127, 127))
    if not all(level.is_integer() for level in color):
        raise ConfigError(f"{keys.where}: background_color {list(color)} should be whole levels")
    return TileConfig(
        tile,
        tower.patch_size,
        tower.tokens(tile),
        plan="views",
        min_tiles=keys.get("min_patches", int, 2),
        max_tiles=keys.get("max_patches", int, 6),
        overview=Overview(whole, tower.tokens(whole), tuple(map(int, color)), alone),
        mean=keys.numbers("image_mean", (0.5, 0.5, 0.5)),
        std=keys.numbers("image_std", (0.5, 0.5, 0.5)),
        resample=keys.choice("resample", {1: "lanczos", 2: "bilinear", 3: "bicubic"}, 3),
    )


def origin(canonical: str, config: LMMConfig, hub: HubConfig) -> Origin:
    """Where a canonical tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    if canonical.startswith("decoder."):
        return text_origin(canonical, config, hub, names=NAMES)
    if canonical == "connector.ending":
        return Origin("model.view_separator")
    if canonical.startswith("connector.proj."):
        return Origin(f"model.multi_modal_projector.{canonical.removeprefix('connector.proj.')}")
    vision, path = config.vision, canonical.removeprefix("vision.")
    assert isinstance(vision, QueryVisionConfig)
    if path.startswith("patches."):
        return sam_origin(path.removeprefix("patches."), vision.patches, _SAM)
    if path.startswith("halve"):
        sizes = {"1": (vision.middle_size, vision.patches.output_size), "2": (vision.hidden_size, vision.middle_size)}
        return Origin(f"{_SAM}proj.conv{path[5]}.weight", (*sizes[path[5]], 3, 3))
    if path.startswith("queries."):
        return Origin(f"{_TOWER}{_QUERIES[int(path.split('.')[1])]}.weight")
    return Origin(f"{_TOWER}vision_encoder.{'.'.join(_ENCODER.get(name, name) for name in path.split('.'))}")


ERAS = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_model.qwen2_encoder.query_768", f"{_TOWER}query_768_resolution.weight"),
    ("vision_model.qwen2_encoder.query_1024", f"{_TOWER}query_1024_resolution.weight"),
    ("vision_model.qwen2_encoder.", f"{_TOWER}vision_encoder."),
    ("sam_model.", _SAM),
    ("projector.layers.", "model.multi_modal_projector."),
    ("view_separator", "model.view_separator"),
    ("model.sam_model.", _SAM),
    ("model.qwen2_model.model.model.", f"{_TOWER}vision_encoder."),
    ("model.qwen2_model.query_768.", f"{_TOWER}query_768_resolution."),
    ("model.qwen2_model.query_1024.", f"{_TOWER}query_1024_resolution."),
    ("model.projector.layers.", "model.multi_modal_projector."),
    ("model.view_seperator", "model.view_separator"),
    ("model.layers.", "model.language_model.layers."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.norm.", "model.language_model.norm."),
)
"""Names of mlx-vlm, and those that the model was published under."""
_IN_SAM = r"(model\.vision_tower\.sam_encoder\."
RENAMES = (
    (rf"^{_IN_SAM})blocks\.", r"\1layers."),
    (rf"^{_IN_SAM}layers\.\d+\.)norm([12])\.", r"\1layer_norm\2."),
    (rf"^{_IN_SAM})patch_embed\.proj\.", r"\1patch_embed.projection."),
    (rf"^{_IN_SAM}neck\.)0\.", r"\1conv1."),
    (rf"^{_IN_SAM}neck\.)1\.", r"\1layer_norm1."),
    (rf"^{_IN_SAM}neck\.)2\.", r"\1conv2."),
    (rf"^{_IN_SAM}neck\.)3\.", r"\1layer_norm2."),
    (rf"^{_IN_SAM})net_2\.", r"\1proj.conv1."),
    (rf"^{_IN_SAM})net_3\.", r"\1proj.conv2."),
)
"""Parts of names in SAM's tower."""
PUBLISHED = (
    (rf"^{_IN_SAM})layers\.(\d+)\.layer_norm([12])\.", r"model.sam_model.blocks.\2.norm\3."),
    (rf"^{_IN_SAM})layers\.", "model.sam_model.blocks."),
    (rf"^{_IN_SAM})patch_embed\.projection\.", "model.sam_model.patch_embed.proj."),
    (rf"^{_IN_SAM})neck\.conv1\.", "model.sam_model.neck.0."),
    (rf"^{_IN_SAM})neck\.layer_norm1\.", "model.sam_model.neck.1."),
    (rf"^{_IN_SAM})neck\.conv2\.", "model.sam_model.neck.2."),
    (rf"^{_IN_SAM})neck\.layer_norm2\.", "model.sam_model.neck.3."),
    (rf"^{_IN_SAM})proj\.conv1\.", "model.sam_model.net_2."),
    (rf"^{_IN_SAM})proj\.conv2\.", "model.sam_model.net_3."),
    (rf"^{_IN_SAM})pos_embed", "model.sam_model.pos_embed"),
    (r"^model\.vision_tower\.vision_encoder\.", "model.qwen2_model.model.model."),
    (r"^model\.vision_tower\.query_(768|1024)_resolution\.", r"model.qwen2_model.query_\1."),
    (r"^model\.multi_modal_projector\.", "model.projector.layers."),
    (r"^model\.view_separator", "model.view_seperator"),
    (r"^model\.language_model\.", "model."),
)
"""transformers writes and reads a checkpoint under the names that the model was published under alone."""

FAMILY = Family(config, origin, ERAS, template=TEMPLATE, renames=RENAMES, published=PUBLISHED, experts="single")
