"""Gemma 3 against transformers where logits alone would not tell, what is published of it, and what is refused."""

from __future__ import annotations

import copy
import json

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from families.gemma3 import ALONE, CONFIG, PLAIN, PROCESSOR, TEXT, VISION
from families.llava import tiles
from mlx.utils import tree_flatten
from support import picture, relative
from tokenizers import Tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil  # noqa: E402

import rave_mlx  # noqa: E402
from parity import golden as reference  # noqa: E402
from rave_mlx.attention import decoder_mask  # noqa: E402
from rave_mlx.checkpoint.directory import BUILT_IN  # noqa: E402
from rave_mlx.convert.families import detect, gemma3  # noqa: E402
from rave_mlx.convert.source import Source  # noqa: E402
from rave_mlx.errors import ConfigError  # noqa: E402
from rave_mlx.generation.prefill import prefill  # noqa: E402
from rave_mlx.inputs.images.preprocess import cut_patches  # noqa: E402
from rave_mlx.inputs.images.token_boxes import locate_tokens  # noqa: E402
from rave_mlx.inputs.prompt.positions import image_spans  # noqa: E402
from rave_mlx.models.connectors import build_connector  # noqa: E402
from rave_mlx.models.decoder import Decoder  # noqa: E402
from rave_mlx.models.vision import build_tower  # noqa: E402


def read(config, processor=PROCESSOR):
    source = Source(path=BUILT_IN, config=config, generation={}, processor=processor, tensors={})
    return detect(config, "config.json").config(source)


def text(**changes):
    return CONFIG | {"text_config": TEXT | changes}


@pytest.mark.parametrize("size", [(200, 120), (1, 1), (333, 77), (48, 48), (1000, 1400)])
def test_pixels_equal(size):
    expected = Gemma3ImageProcessorPil(size={"height": 48, "width": 48})(picture(*size), return_tensors="np")
    found = cut_patches(picture(*size), read(CONFIG).image)
    np.testing.assert_array_equal(tiles(found, 48), expected["pixel_values"])


def test_ids_equal(tmp_path):
    """Gemma3Processor puts this text in the place of the token that the template writes for an image."""
    lmm = rave_mlx.load(write_checkpoint(PLAIN, tmp_path / "hf"))
    tokenizer = Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    sequence = "\n\n<start_of_image>" + "<image_soft_token>" * 9 + "<end_of_image>\n\n"
    for name in PLAIN.conversations:
        prompt = lmm.prepare(CONVERSATIONS[name])
        written = lmm.template.render(CONVERSATIONS[name], add_generation_prompt=True)
        whole = written.replace("<start_of_image>", sequence)
        assert prompt.ids[0].tolist() == tokenizer.encode(whole, add_special_tokens=False).ids
        assert prompt.visual_tokens == whole.count("<image_soft_token>") == 9 * len(prompt.images)


def test_masks_are_those_of_transformers():
    """Images of 3 and 4 tokens, windows of 2 and 5, the second row padded."""
    visual = np.array([[0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0]] * 2, bool)
    valid = np.array([[1] * 12, [0] * 1 + [1] * 11], bool)
    visual[1] &= valid[1]
    spans = mx.array(np.stack([image_spans(np.where(row, 0, -1).astype(np.int32)) for row in visual]))
    for window in (2, 5):
        config = transformers.Gemma3TextConfig(**copy.deepcopy(TEXT | {"sliding_window": window}))
        config._attn_implementation = "eager"
        blocks = transformers.models.gemma3.modeling_gemma3.get_block_sequence_ids_for_mask(torch.tensor(visual).int())
        theirs = transformers.models.gemma3.modeling_gemma3.create_masks_for_vision_model(
            config, torch.zeros(2, 12, 64), torch.tensor(valid).int(), None, torch.arange(12)[None], blocks
        )
        for kind, limit in (("full_attention", None), ("sliding_attention", window)):
            ours = np.array(decoder_mask(12, 12, valid=mx.array(valid), window=limit, lookahead=spans))[:, 0]
            expected = (theirs[kind] == 0).numpy()[:, 0]
            real = valid[:, :, None] & valid[:, None]
            assert (ours[real] == expected[real]).all(), (kind, window)


@pytest.mark.parametrize("chunk", [2, 3, 5, 11])
def test_chunks_never_divide_an_image(chunk, tmp_path):
    case = cases()["gemma3-untied"]
    lmm = rave_mlx.load(write_checkpoint(case, tmp_path / "hf"))
    prompt = lmm.prepare(CONVERSATIONS["two images, two turns"])
    whole = lmm.logits(prompt)[:, -1]
    assert relative(prefill(lmm, prompt, lmm.make_cache(), chunk=chunk), whole) <= 1e-5


def test_a_longer_conversation_begins_with_the_shorter_one(tmp_path):
    lmm = rave_mlx.load(write_checkpoint(PLAIN, tmp_path / "hf"))
    first, longer = (lmm.prepare(CONVERSATIONS["two images, two turns"][:turns]) for turns in (1, 3))
    assert first.same_until(longer) >= len(first) - 2
    other = lmm.prepare([{"role": "user", "content": [{"type": "image", "image": picture(64, 160, 9)}]}])
    assert first.same_until(other) == int(np.flatnonzero(first.token_map.visual)[0])


def test_every_visual_token_has_its_place(tmp_path):
    """Of 5 x 5 patches 4 x 4 are seen, as 2 x 2 tokens."""
    lmm = rave_mlx.load(write_checkpoint(cases()["gemma3-untied"], tmp_path / "hf"))
    image = lmm.prepare(CONVERSATIONS["one image"]).images[0]
    boxes = locate_tokens(image, lmm.config.image, lmm.config.connector).boxes
    share = 32 / 44
    np.testing.assert_allclose(boxes[0], [0, 0, 100 * share, 60 * share])
    np.testing.assert_allclose(boxes[3], [100 * share, 60 * share, 200 * share, 120 * share])


PUBLISHED = {
    "gemma-3-4b-it": {
        "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eoi_token_index": 256000,
        "eos_token_id": [1, 106], "image_token_index": 262144, "initializer_range": 0.02, "mm_tokens_per_image": 256,
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
        },
        "vision_config": {
            "hidden_size": 1152, "image_size": 896, "intermediate_size": 4304, "model_type": "siglip_vision_model",
            "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": False,
        },
    },
}  # fmt: skip
PUBLISHED["gemma-3-27b-it"] = PUBLISHED["gemma-3-4b-it"] | {
    "text_config": PUBLISHED["gemma-3-4b-it"]["text_config"] | {
        "head_dim": 128, "hidden_size": 5376, "intermediate_size": 21504, "num_attention_heads": 32,
        "num_hidden_layers": 62, "num_key_value_heads": 16, "query_pre_attn_scalar": 168,
    },
}  # fmt: skip
LARGE = PROCESSOR | {"size": {"height": 896, "width": 896}, "image_seq_length": 256}


@pytest.mark.parametrize(("name", "count"), [("gemma-3-4b-it", 4_300_079_472), ("gemma-3-27b-it", 27_432_406_640)])
def test_the_published_models(name, count):
    config = read(PUBLISHED[name], LARGE)
    parts = [Decoder(config), build_tower(config.vision), build_connector(config.connector, config.vision)]
    ours = sum(a.size for part in parts for _, a in tree_flatten(part.parameters()))
    with torch.device("meta"):
        theirs = transformers.Gemma3ForConditionalGeneration(
            transformers.Gemma3Config(**copy.deepcopy(PUBLISHED[name]))
        )
    assert ours == sum(p.numel() for p in theirs.parameters()) == count
    assert config.text.sliding_layers[:6] == (0, 1, 2, 3, 4, 6) and config.text.sliding_window == 1024
    assert config.text.rope.theta == 1e6 and config.text.rope.scaling.factor == 8
    assert config.text.sliding_rope.theta == 1e4 and config.text.sliding_rope.scaling is None
    assert config.tokens.stop == (1, 106) and config.connector.pool == 4 and config.image.tile_tokens == 256


def test_defaults_are_those_of_the_class():
    for name, value in gemma3.TEXT.items():
        assert getattr(transformers.Gemma3TextConfig, name) == value, name
    short = transformers.Gemma3TextConfig(num_hidden_layers=13)
    ours = read(CONFIG | {"text_config": {"model_type": "gemma3_text", "num_hidden_layers": 13}}).text
    assert [short.layer_types[i] == "sliding_attention" for i in range(13)] == [ours.slides(i) for i in range(13)]
    for kind, rope in (("full_attention", ours.rope), ("sliding_attention", ours.sliding_rope)):
        assert short.rope_parameters[kind]["rope_theta"] == rope.theta


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 8},
        {
            "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8,
        },
        {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    ],
    ids=lambda r: r["rope_type"],
)  # fmt: skip
def test_other_rotary_scalings_of_full_layers(rope, tmp_path):
    """Inside and outside of the window; all local layers, and none."""
    for types in (None, ["full_attention"] * 4, ["sliding_attention"] * 4):
        config = copy.deepcopy(TEXT) | {"layer_types": types or TEXT["layer_types"]}
        config["rope_parameters"]["full_attention"] = rope
        if rope["rope_type"] == "dynamic":
            config["max_position_embeddings"] = 32
        case = PLAIN.__class__(**{**PLAIN.__dict__, "config": copy.deepcopy(CONFIG) | {"text_config": config}})
        folder = tmp_path / f"{'-'.join(t[0] for t in config['layer_types'])}"
        model = reference.hf_model(case)
        lmm = rave_mlx.load(reference.checkpoint(case, model, folder))
        if rope["rope_type"] == "dynamic":
            prompt = lmm.prepare(CONVERSATIONS["text"])
        else:
            prompt = lmm.prepare(CONVERSATIONS["two images, two turns"])
        assert relative(lmm.logits(prompt), reference.hf_logits(case, model, [prompt])) <= 1e-5


@pytest.mark.parametrize(
    ("hub", "processor", "named"),
    [
        (text(final_logit_softcapping=30.0), {}, "final_logit_softcapping 30.0"),
        (text(attn_logit_softcapping=50.0), {}, "attn_logit_softcapping 50.0"),
        (text(use_bidirectional_attention=True), {}, "use_bidirectional_attention"),
        (text(query_pre_attn_scalar=0), {}, "query_pre_attn_scalar 0"),
        (text(hidden_activation="relu"), {}, "hidden_activation 'relu'"),
        (text(layer_types=["sliding_attention"] * 3), {}, "layer_types must name"),
        (text(layer_types=["chunked_attention"] * 4), {}, "layer_types must name"),
        (text(sliding_window=None), {}, "sliding_window is missing"),
        (text(rope_parameters={"rope_type": "default", "rope_theta": 1e4}), {}, "unknown keys rope_theta, rope_type"),
        (text(model_type="gemma2"), {}, "model_type 'gemma2'"),
        (CONFIG | {"mm_tokens_per_image": 8}, {}, "mm_tokens_per_image 8"),
        (CONFIG | {"mm_tokens_per_image": 25}, {}, "mm_tokens_per_image 25"),
        (CONFIG | {"vision_config": VISION | {"model_type": "clip_vision_model"}}, {}, "clip_vision_model"),
        (CONFIG, {"do_pan_and_scan": True}, "do_pan_and_scan is not supported"),
        (CONFIG, {"size": {"height": 64, "width": 64}}, "only the tower's 48 pixels"),
        (ALONE | {"final_logit_softcapping": 30.0}, {}, "final_logit_softcapping"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(hub, processor, named):
    with pytest.raises(ConfigError) as caught:
        read(json.loads(json.dumps(hub)), PROCESSOR | processor)
    assert named in str(caught.value) and "\n" not in str(caught.value)
