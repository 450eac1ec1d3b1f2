"""AKI (modality-mutual attention, arXiv 2503.02597): SigLIP, a Perceiver resampler and Phi-3.5-mini.

Read in the authors' code (github.com/sony/aki @c764231, codes/open_flamingo): the names of all tensors, the shape of
the resampler, the embeddings and the head in two parts (the head with a bias that Phi-3.5 has not), SigLIP's features
after its last norm, images stretched to a square by a bicubic filter with mean and deviation 0.5, the system prompt,
the token that an image stands for, and the mask. Read in copies of Phi-3.5-mini-instruct's and SigLIP-so400m's
configurations: their sizes, which config.json does not repeat, for it holds the arguments of the model's constructor
and names the two models by their paths.

Not verified, since the checkpoint (Sony/AKI-4B-phi-3.5-mini) was not at hand: that its config.json says no more than
those arguments, and that its tokenizer.json has the added tokens where the code that trained it puts them; where they
are is read from the file. An answer of an earlier turn ends as in Phi-3.5; AKI was trained on single turns.
"""

from __future__ import annotations

from typing import Any

from rave_mlx.checkpoint import directory
from rave_mlx.config import LMMConfig, ResamplerConfig, TextConfig, TileConfig, TileVisionConfig, TokenConfig
from rave_mlx.convert.families.aki_parts import part
from rave_mlx.convert.families.base import Family, HubConfig, Origin
from rave_mlx.convert.families.square_images import processor_keys, read_fit, read_levels
from rave_mlx.convert.families.text import read_gate, read_text, text_origin
from rave_mlx.convert.families.towers import read_tower, tower_origin
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

_ADDED = ("<image>", "<|endofchunk|>")
"""Tokens whose embeddings and scores lie in tensors of their own, in this order."""
_ENDS = ("<|end|>", "<|assistant|>", "<|endoftext|>")
"""Tokens that end an answer, where generation_config.json does not say so: Phi-3.5's."""

_CONNECTOR = {
    "attention.feature_norm": "0.norm_media",
    "attention.latent_norm": "0.norm_latents",
    "attention.q_proj": "0.to_q",
    "attention.o_proj": "0.to_out",
    "mlp.norm": "1.0",
    "mlp.fc1": "1.1",
    "mlp.fc2": "1.3",
}
_VOCABULARY = {
    "decoder.embed": ("lang_model.model.embed_tokens", "additional_embedding"),
    "decoder.head": ("lang_model.lm_head", "additional_fc"),
}

TEMPLATE = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] != 'system' %}<|system|>\n"
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions.<|end|>\n{% endif %}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
"""The prompt of the authors' evaluation. The template of the tokenizer's settings is Phi-3.5's: it has no images."""


def config(source: Source) -> LMMConfig:
    """The canonical configuration."""
    where = str(source.path / "config.json")
    whole = Keys(source.config, where)
    tower = read_tower(Keys(part(source.config, "vision_encoder_path", where), where), "siglip_vision_model")
    first = whole.need("initial_tokenizer_len", int)
    text = Keys(part(source.config, "lang_model_path", where), f"{where}.text_config")
    has_bias = "lang_model.lm_head.bias" in source.tensors
    decoder = read_text(text, text, "phi3", vocab_size=first + len(_ADDED), head_bias=has_bias)
    latents = whole.get("num_vision_tokens", int, 144)
    return LMMConfig(
        family="aki",
        text=decoder,
        tokens=_tokens(source, whole, decoder),
        vision=tower,
        connector=ResamplerConfig(
            hidden_size=tower.hidden_size,
            output_size=decoder.hidden_size,
            latents=latents,
            depth=6,
            num_heads=8,
            head_dim=64,
        ),
        image=_images(source, whole, tower, latents),
        gate=read_gate(whole, source.config),
        mask="mutual",
    )


def origin(canonical: str, config: LMMConfig, hub: HubConfig) -> Origin:
    """Where a canonical tensor lies.

    Args:
        canonical: the canonical name.
        config: the canonical configuration.
        hub: the checkpoint's config.json.
    """
    stem, _, leaf = canonical.rpartition(".")
    if stem in _VOCABULARY:
        return _vocabulary(stem, leaf, config.text, hub)
    if canonical.startswith("decoder."):
        return text_origin(canonical, config, {"model_type": "phi3"}, stem="lang_model.model.")
    if canonical.startswith("vision."):
        assert isinstance(config.vision, TileVisionConfig)
        return tower_origin(canonical, config.vision, stem="vision_encoder.")
    assert isinstance(config.connector, ResamplerConfig)
    return _resampler(canonical.removeprefix("connector."), config.connector)


def _resampler(path: str, config: ResamplerConfig) -> Origin:
    """A tensor of the connector; keys stand before values in one tensor."""
    if not path.startswith("layers."):
        return Origin(f"vision_tokenizer.{path}")
    _, index, inner = path.split(".", 2)
    name, _, leaf = inner.rpartition(".")
    base = f"vision_tokenizer.layers.{index}."
    width = config.num_heads * config.head_dim
    if name in ("attention.k_proj", "attention.v_proj"):
        first = width * (name == "attention.v_proj")
        return Origin(f"{base}0.to_kv.{leaf}", rows=(first, first + width))
    return Origin(f"{base}{_CONNECTOR[name]}.{leaf}")


def _vocabulary(stem: str, leaf: str, text: TextConfig, hub: HubConfig) -> Origin:
    """Embeddings or head: Phi-3.5's, whose last rows stand for no token, then those of the added tokens."""
    name, added = _VOCABULARY[stem]
    width = (text.hidden_size,) if leaf == "weight" else ()
    rows = int(part(hub, "lang_model_path", "config.json")["vocab_size"])
    return Origin(
        f"{name}.{leaf}",
        (rows, *width),
        rows=(0, text.vocab_size - len(_ADDED)),
        rest=(Origin(f"{name}.{added}.{leaf}", (len(_ADDED), *width)),),
    )


def _tokens(source: Source, whole: Keys, text: TextConfig) -> TokenConfig:
    """Ids by what the tokens say."""
    added = directory.read_json(source.tokenizer).get("added_tokens", [])
    ids = {token["content"]: int(token["id"]) for token in added}
    missing = [name for name in ("<s>", *_ADDED[:1], *_ENDS) if name not in ids]
    if missing:
        raise ConfigError(f"{source.tokenizer}: no token {', '.join(missing)}; this is not AKI's tokenizer")
    if max(ids.values()) >= text.vocab_size:
        raise ConfigError(
            f"{source.tokenizer}: has ids up to {max(ids.values())}, but {whole.where} has initial_tokenizer_len "
            f"{text.vocab_size - len(_ADDED)} and {len(_ADDED)} tokens after it"
        )
    ends = source.generation.get("eos_token_id", [ids[name] for name in _ENDS])
    return TokenConfig(
        stop=tuple(ends) if isinstance(ends, list) else (int(ends),),
        image=ids[_ADDED[0]],
        bos=ids["<s>"],
        pad=whole.get("pad_token_id", int, None),
        answer=ids["<|assistant|>"],
    )


def _images(source: Source, whole: Keys, tower: TileVisionConfig, latents: int) -> TileConfig:
    """One stretched tile. The code reads three numbers from config.json; an image processor's settings go before."""
    levels: dict[str, Any] = {
        "mean": (whole.get("norm_mean", float, 0.5),) * 3,
        "std": (whole.get("norm_std", float, 0.5),) * 3,
    }
    if source.processor:
        keys = processor_keys(source)
        levels = read_levels(keys)
        if read_fit(keys, tower.tile_size) != "stretch":
            raise ConfigError(f"{keys.where}: AKI stretches images to a square; give size a height and a width")
    return TileConfig(
        tile_size=whole.get("n_px", int, tower.tile_size), patch_size=tower.patch_size, tile_tokens=latents, **levels
    )


FAMILY = Family(
    config,
    origin,
    ignored=(r"vision_encoder\.head\..*",),
    template=TEMPLATE,
)
