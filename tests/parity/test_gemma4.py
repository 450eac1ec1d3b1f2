"""Gemma 4 against transformers where logits alone would not tell, what is published of it, and what is refused."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from families.gemma4 import ALONE, CONFIG, LARGE, PLAIN, PROCESSOR, TEXT, VISION, raster
from mlx.utils import tree_flatten
from support import ask, picture, relative
from tokenizers import Tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil  # noqa: E402

import rave_mlx  # noqa: E402
from parity import golden as reference  # noqa: E402
from rave_mlx.attention import decoder_mask  # noqa: E402
from rave_mlx.chat.session import Session  # noqa: E402
from rave_mlx.checkpoint.directory import BUILT_IN  # noqa: E402
from rave_mlx.convert import convert  # noqa: E402
from rave_mlx.convert.exporting import export  # noqa: E402
from rave_mlx.convert.families import detect, gemma4, gemma4_text  # noqa: E402
from rave_mlx.convert.source import Source  # noqa: E402
from rave_mlx.errors import ConfigError, UsageError  # noqa: E402
from rave_mlx.generation.prefill import prefill, token_bytes  # noqa: E402
from rave_mlx.inputs.images.preprocess import cut_patches  # noqa: E402
from rave_mlx.inputs.images.token_boxes import locate_tokens  # noqa: E402
from rave_mlx.inputs.prompt.positions import image_spans  # noqa: E402
from rave_mlx.models.connectors import build_connector  # noqa: E402
from rave_mlx.models.decoder import Decoder  # noqa: E402
from rave_mlx.models.vision import build_tower  # noqa: E402
from rave_mlx.policies.methods.visiondrop import VisionDrop  # noqa: E402


def read(config, processor=PROCESSOR):
    source = Source(path=BUILT_IN, config=config, generation={}, processor=processor, tensors={})
    return detect(config, "config.json").config(source)


def text(**changes):
    return CONFIG | {"text_config": TEXT | changes}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The checkpoints of two cases, by name."""
    root = tmp_path_factory.mktemp("gemma4")
    return {name: write_checkpoint(cases()[name], root / name) for name in ("gemma4", "gemma4-vision")}


@pytest.mark.parametrize(
    "size", [(200, 120), (9, 9), (333, 77), (600, 5), (3, 500), (1000, 1400), (52, 30), (1, 1), (84, 120)]
)
@pytest.mark.parametrize(("patch", "pool", "most"), [(2, 3, 70), (3, 2, 140)])
def test_pixels_equal(size, patch, pool, most):
    settings = {"patch_size": patch, "pooling_kernel_size": pool, "max_soft_tokens": most}
    vision = VISION | {"patch_size": patch, "pooling_kernel_size": pool}
    config = read(CONFIG | {"vision_config": vision}, PROCESSOR | settings)
    expected = Gemma4ImageProcessorPil(**settings)(picture(*size), return_tensors="np")
    found = cut_patches(picture(*size), config.image)
    pixels, places = raster(found, pool, patch)
    count = len(pixels)
    assert found.tokens == expected["num_soft_tokens_per_image"][0] == count // pool**2
    np.testing.assert_allclose(pixels, expected["pixel_values"][0, :count], rtol=0, atol=6e-8)
    np.testing.assert_array_equal(places, expected["image_position_ids"][0, :count])
    assert (expected["image_position_ids"][0, count:] == -1).all()


def test_ids_equal(folder):
    """Gemma4Processor puts this text in the place of the token that the template writes for an image."""
    lmm = rave_mlx.load(folder["gemma4"])
    tokenizer = Tokenizer.from_file(str(folder["gemma4"] / "tokenizer.json"))
    for name in PLAIN.conversations:
        prompt = lmm.prepare(CONVERSATIONS[name])
        written = lmm.template.render(CONVERSATIONS[name], add_generation_prompt=True)
        for image in prompt.images:
            written = written.replace("<|image|>", f"<|image>{'<soft>' * image.tokens}<image|>", 1)
        ids = tokenizer.encode(written.replace("<soft>", "<|image|>"), add_special_tokens=False).ids
        assert prompt.ids[0].tolist() == ids


def test_masks_are_those_of_transformers():
    """Images of 3 and 4 tokens, windows of 2 and 5, the second row padded."""
    visual = np.array([[0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0]] * 2, bool)
    valid = np.array([[1] * 12, [0] * 1 + [1] * 11], bool)
    visual[1] &= valid[1]
    spans = mx.array(np.stack([image_spans(np.where(row, 0, -1).astype(np.int32)) for row in visual]))
    made = transformers.models.gemma4.modeling_gemma4
    for window in (2, 5):
        config = transformers.Gemma4TextConfig(**copy.deepcopy(TEXT | {"sliding_window": window}))
        config._attn_implementation = "eager"
        blocks = made.get_block_sequence_ids_for_mask(torch.tensor(visual).int(), "cpu")
        theirs = made.create_masks_for_vision_model(
            config, torch.zeros(2, 12, 64), torch.tensor(valid).int(), None, torch.arange(12)[None], blocks
        )
        for kind, limit, ahead in (("full_attention", None, None), ("sliding_attention", window, spans)):
            ours = decoder_mask(12, 12, valid=mx.array(valid), window=limit, lookahead=ahead)
            expected = (theirs[kind] == 0).numpy()[:, 0]
            real = valid[:, :, None] & valid[:, None]
            assert (np.array(ours)[:, 0][real] == expected[real]).all(), (kind, window)


@pytest.mark.parametrize("chunk", [2, 5, 11, 100])
def test_chunks_never_divide_an_image_whose_tokens_see_each_other(chunk, folder):
    lmm = rave_mlx.load(folder["gemma4-vision"])
    prompt = lmm.prepare(CONVERSATIONS["two images, two turns"])
    whole = lmm.logits(prompt)[:, -1]
    assert relative(prefill(lmm, prompt, lmm.make_cache(), chunk=chunk), whole) <= 1e-5


@pytest.mark.parametrize("name", ["gemma4", "gemma4-vision"])
def test_a_conversation_goes_on_as_if_it_were_read_anew(name, folder):
    """Windows and borrowed keys after what was kept of the first turn."""
    lmm = rave_mlx.load(folder[name])
    session = Session(lmm, max_tokens=12)
    first = ask("What is the total?", picture(60, 90))
    said = "".join(piece.text for piece in session.answer([first]))
    again = [first, {"role": "assistant", "content": said}, {"role": "user", "content": "And the date?"}]
    kept = [piece.token for piece in session.answer(again)]
    assert kept == [piece.token for piece in rave_mlx.stream(lmm, again, max_tokens=12)]


def test_only_layers_with_keys_of_their_own_take_room(folder):
    lmm = rave_mlx.load(folder["gemma4"])
    cache = lmm.make_cache()
    prefill(lmm, lmm.prepare(CONVERSATIONS["one image"]), cache)
    held = [sum(x.shape[1] * x.shape[3] for x in layer.arrays) for layer in cache.layers]
    assert held == [16, 32, 16, 0, 0, 0] and token_bytes(lmm, None) == 4 * sum(held)


def test_every_visual_token_has_its_place(folder):
    lmm = rave_mlx.load(folder["gemma4"])
    image = lmm.prepare(CONVERSATIONS["one image"]).images[0]
    boxes = locate_tokens(image, lmm.config.image, lmm.config.connector).boxes
    assert image.grid == (1, 18, 30) and len(boxes) == 60
    np.testing.assert_allclose(boxes[[0, 11]], [[0, 0, 20, 20], [20, 20, 40, 40]])


def test_what_is_left_out_of_a_checkpoint(tmp_path):
    """Sound, keys that a layer borrows, and bounds of a tower that clips nothing; an export has none of it."""
    case = cases()["gemma4"]
    other = copy.deepcopy(case.config)
    other["vision_config"]["use_clipped_linears"] = False
    other["audio_config"] = {
        "model_type": "gemma4_audio", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "output_proj_dims": 16, "subsampling_conv_channels": [4, 4],
    }  # fmt: skip
    case = replace(case, config=other)
    model = reference.hf_model(case)
    folder = reference.checkpoint(case, model, tmp_path / "hf")
    tensors = dict(mx.load(str(folder / "model.safetensors")))
    assert any(name.startswith("model.audio_tower.") for name in tensors)
    extra = {"model.language_model.layers.5.self_attn.k_proj.weight": mx.zeros((16, 64)),
             "model.vision_tower.encoder.layers.0.mlp.up_proj.input_max": mx.array(mx.inf)}  # fmt: skip
    mx.save_safetensors(str(folder / "model.safetensors"), tensors | extra, {"format": "pt"})
    lmm = rave_mlx.load(folder)
    prompt = lmm.prepare(CONVERSATIONS["one image"])
    expected = reference.hf_logits(case, model, [prompt])
    assert relative(lmm.logits(prompt), expected) <= 1e-5
    convert(folder, tmp_path / "rave")
    export(tmp_path / "rave", tmp_path / "again")
    again, report = type(model).from_pretrained(
        tmp_path / "again", dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    assert again.config.audio_config is None
    assert relative(reference.hf_logits(case, again.eval(), [prompt]), expected) <= 1e-6


def test_bounds_may_be_infinite(tmp_path):
    """As they are in a model that transformers makes anew."""
    folder = write_checkpoint(cases()["gemma4"], tmp_path / "hf")
    tensors = dict(mx.load(str(folder / "model.safetensors")))
    names = [name for name in tensors if name.endswith(("_min", "_max"))]
    bounds = {name: mx.array(-mx.inf if name.endswith("_min") else mx.inf) for name in names}
    assert len(bounds) == 2 * 7 * 4
    mx.save_safetensors(str(folder / "model.safetensors"), tensors | bounds, {"format": "pt"})
    assert rave_mlx.load(folder).vision.layers[1].mlp.up_proj.input_max.item() == np.inf


def test_pruning_is_refused_where_layers_borrow_keys(folder):
    with pytest.raises(UsageError, match="^--attention visiondrop: .*keys and values of earlier ones") as caught:
        Session(rave_mlx.load(folder["gemma4"]), policy=VisionDrop(dominant=(4, 3, 2), contextual=(1, 1, 1)))
    assert "\n" not in str(caught.value)


def test_both_ways_of_writing_widths_are_one():
    """`global_head_dim`, as published, and `per_layer_config`, as transformers 5 writes it."""
    made = transformers.Gemma4TextConfig(**copy.deepcopy(LARGE["text_config"])).to_dict()
    assert "per_layer_config" in made and "global_head_dim" not in made
    written = LARGE | {"text_config": json.loads(json.dumps(made))}
    assert read(written, PROCESSOR | {"patch_size": 3, "pooling_kernel_size": 2}).text == read(
        LARGE, PROCESSOR | {"patch_size": 3, "pooling_kernel_size": 2}
    ).text  # fmt: skip


E2B = {
    "model_type": "gemma4", "architectures": ["Gemma4ForConditionalGeneration"], "vision_config": {},
    "text_config": {
        "model_type": "gemma4_text", "hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 35,
        "num_key_value_heads": 1, "num_kv_shared_layers": 20, "use_double_wide_mlp": True,
        "final_logit_softcapping": 30.0, "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7,
    },
}  # fmt: skip


SPARSE = {"enable_moe_block": True, "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704}


@pytest.mark.parametrize(("changes", "count"), [({}, 4_797_113_600), (SPARSE | {"num_kv_shared_layers": 0}, None)])
def test_parameters_of_large_models(changes, count):
    """transformers' own count for the sizes of E2B, its way from sound left out, and with experts in its layers."""
    hub = E2B | {"text_config": E2B["text_config"] | changes}
    config = read(hub, {})
    parts = [Decoder(config), build_tower(config.vision), build_connector(config.connector, config.vision)]
    ours = sum(a.size for part in parts for n, a in tree_flatten(part.parameters()) if not n.endswith("out_scale"))
    with torch.device("meta"):
        theirs = transformers.Gemma4ForConditionalGeneration(transformers.Gemma4Config(**copy.deepcopy(hub)))
    assert ours == sum(p.numel() for p in theirs.parameters())
    assert count is None or ours == count


def test_defaults_are_those_of_the_classes():
    for name, value in gemma4_text.TEXT.items():
        assert getattr(transformers.Gemma4TextConfig, name) == value, name
    for name, value in gemma4.VISION.items():
        assert getattr(transformers.Gemma4VisionConfig, name) == value, name
    short = transformers.Gemma4TextConfig(num_hidden_layers=13)
    ours = read(CONFIG | {"text_config": {"model_type": "gemma4_text", "num_hidden_layers": 13}}).text
    assert [short.layer_types[i] == "sliding_attention" for i in range(13)] == [ours.slides(i) for i in range(13)]
    for kind, rope in (("full_attention", ours.rope), ("sliding_attention", ours.sliding_rope)):
        assert short.rope_parameters[kind]["rope_theta"] == rope.theta
    widths = [short.per_layer_config[i].head_dim for i in range(13)]
    assert widths == [ours.head_dim_of(i) for i in range(13)] and ours.rope.turning == 64


@pytest.mark.parametrize(
    ("hub", "processor", "named"),
    [
        (text(use_bidirectional_attention="all"), {}, "use_bidirectional_attention 'all'"),
        (text(use_bidirectional_attention="text"), {}, "use_bidirectional_attention 'text'"),
        (text(final_logit_softcapping=0.0), {}, "final_logit_softcapping 0.0"),
        (text(hidden_activation="relu"), {}, "hidden_activation 'relu'"),
        (text(layer_types=["sliding_attention"] * 3), {}, "layer_types must name"),
        (text(layer_types=["chunked_attention"] * 6), {}, "layer_types must name"),
        (text(sliding_window=None), {}, "sliding_window is missing"),
        (text(num_kv_shared_layers=6), {}, "borrowed_layers 6"),
        (text(num_kv_shared_layers=5), {}, "no layer before them is of the same kind"),
        (text(per_layer_config={"1": {"sliding_window": 4}}), {}, "sliding_window is not supported"),
        (text(per_layer_config={"0": {"head_dim": 32}}), {}, "layers of the kind sliding_attention differ"),
        (text(per_layer_config={"9": {"head_dim": 32}}), {}, "9 is not supported"),
        (text(rope_parameters={"rope_type": "default", "rope_theta": 1e4}), {}, "unknown keys rope_theta, rope_type"),
        (text(rope_parameters={"sliding_attention": {"rope_theta": 1e4}}), {}, "full_attention is missing"),
        (text(enable_moe_block=True), {}, "num_experts is missing"),
        (text(model_type="gemma3_text"), {}, "model_type 'gemma3_text'"),
        (CONFIG | {"vision_config": VISION | {"model_type": "siglip_vision_model"}}, {}, "siglip_vision_model"),
        (CONFIG | {"vision_config": VISION | {"rope_parameters": {"rope_type": "yarn"}}}, {}, "rope_type 'yarn'"),
        (CONFIG | {"vision_config": VISION | {"head_dim": 6}}, {}, "of 6 numbers"),
        (CONFIG, {"patch_size": 16}, "patch_size 16 is not the tower's 2"),
        (CONFIG, {"max_soft_tokens": 100}, "max_soft_tokens 100"),
        (CONFIG, {"do_resize": False}, "do_resize False"),
        (CONFIG, {"rescale_factor": 1.0}, "rescale_factor 1.0"),
        (ALONE | {"use_bidirectional_attention": "all"}, {}, "use_bidirectional_attention"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(hub, processor, named):
    with pytest.raises(ConfigError) as caught:
        read(json.loads(json.dumps(hub)), PROCESSOR | processor)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_without_a_tower_reads_text(tmp_path):
    case = cases()["gemma4"]
    bare = replace(case, config=case.config | {"vision_config": None}, conversations=("text",))
    model = reference.hf_model(bare)
    lmm = rave_mlx.load(reference.checkpoint(bare, model, tmp_path / "hf"))
    prompt = lmm.prepare(CONVERSATIONS["text"])
    assert lmm.config.vision is None
    assert relative(lmm.logits(prompt), reference.hf_logits(bare, model, [prompt])) <= 1e-5


@pytest.mark.parametrize("packed", [False, True])
def test_experts_as_mlx_vlm_writes_them(packed, tmp_path):
    """`switch_glu`, halves of the fused matrix by themselves, routers in eight bits."""
    source = write_checkpoint(cases()["gemma4-moe"], tmp_path / "hf")
    tensors = dict(mx.load(str(source / "model.safetensors")))
    written, plain, settings = {}, dict(tensors), {"group_size": 32, "bits": 4}
    for name, tensor in tensors.items():
        stem = re.sub(r"^model\.(language_model)?", lambda m: "language_model.model" if m[1] else "", name)
        parts = {stem: tensor}
        if ".experts." in stem:
            at = stem.rpartition(".")[0] + ".switch_glu."
            halves = (
                {"gate_proj": tensor[:, :40], "up_proj": tensor[:, 40:]} if "gate_up" in stem else {"down_proj": tensor}
            )
            parts = {f"{at}{half}.weight": mx.contiguous(x) for half, x in halves.items()}
        for part, x in parts.items():
            bits = 8 if "router.proj" in part else 4
            if (
                not packed
                or x.shape[-1] % 32
                or not part.endswith(".weight")
                or not re.search("router|switch_glu", part)
            ):
                written[part] = x
                continue
            module = part.removesuffix(".weight")
            codes = mx.quantize(x, 32, bits)
            written |= dict(zip((part, f"{module}.scales", f"{module}.biases"), codes, strict=True))
            settings |= {module: {"group_size": 32, "bits": bits}}
            parts[part] = mx.dequantize(*codes, 32, bits)
        plain[name] = mx.concatenate(list(parts.values()), axis=1) if len(parts) > 1 else next(iter(parts.values()))
    mx.save_safetensors(str(source / "model.safetensors"), plain, {"format": "pt"})
    expected = rave_mlx.load(source)
    mlx = write_checkpoint(cases()["gemma4-moe"], tmp_path / "mlx")
    mx.save_safetensors(str(mlx / "model.safetensors"), written, {"format": "mlx"})
    if packed:
        hub = json.loads((mlx / "config.json").read_text())
        (mlx / "config.json").write_text(json.dumps(hub | {"quantization": settings}))
    lmm = rave_mlx.load(mlx)
    assert (lmm.config.quantization is not None) == packed
    prompt = lmm.prepare(CONVERSATIONS["two images, two turns"])
    assert relative(lmm.logits(prompt), expected.logits(prompt)) <= 1e-5
