"""DeepSeek-OCR 2 against transformers and peft where logits alone would not tell, its names, and what is refused."""

from __future__ import annotations

import copy
import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from families.deepseek_ocr2 import CONFIG, ENCODER, PLAIN, PROCESSOR, SAM, TEXT, VISION, views
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file
from support import ask, picture, relative

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import (  # noqa: E402
    DeepseekOcr2ImageProcessorPil,
)
from transformers.models.deepseek_ocr2.processing_deepseek_ocr2 import DeepseekOcr2Processor  # noqa: E402

import rave_mlx  # noqa: E402
from parity import golden as reference  # noqa: E402
from rave_mlx.checkpoint import adapters  # noqa: E402
from rave_mlx.checkpoint.directory import BUILT_IN  # noqa: E402
from rave_mlx.convert import convert  # noqa: E402
from rave_mlx.convert.adapters import export_peft  # noqa: E402
from rave_mlx.convert.exporting import export  # noqa: E402
from rave_mlx.convert.families import deepseek, deepseek_ocr2, detect  # noqa: E402
from rave_mlx.convert.fusing import fuse  # noqa: E402
from rave_mlx.convert.source import Source  # noqa: E402
from rave_mlx.errors import ConfigError, ModelError  # noqa: E402
from rave_mlx.inputs.images.preprocess import cut_patches  # noqa: E402
from rave_mlx.inputs.images.token_boxes import locate_tokens  # noqa: E402
from rave_mlx.models.connectors import build_connector  # noqa: E402
from rave_mlx.models.decoder import Decoder  # noqa: E402
from rave_mlx.models.vision import build_tower  # noqa: E402
from rave_mlx.models.vision.rescale import rescaled_line, rescaled_square  # noqa: E402
from rave_mlx.train.batch import collate  # noqa: E402
from rave_mlx.train.config import AdapterSettings, TrainConfig  # noqa: E402
from rave_mlx.train.dataset import open_dataset  # noqa: E402
from rave_mlx.train.draw import seen  # noqa: E402
from rave_mlx.train.features import FeatureCache  # noqa: E402
from rave_mlx.train.loss import loss  # noqa: E402
from rave_mlx.train.parameters import prepare, trained_weights  # noqa: E402

PUBLISHED = {
    "architectures": ["DeepseekOCR2ForCausalLM"], "model_type": "deepseek_vl_v2", "tile_tag": "2D",
    "global_view_pos": "head", "candidate_resolutions": [[1024, 1024]], "torch_dtype": "bfloat16",
    "language_config": {
        "architectures": ["DeepseekV2ForCausalLM"], "bos_token_id": 0, "eos_token_id": 1, "first_k_dense_replace": 1,
        "hidden_size": 1280, "intermediate_size": 6848, "kv_lora_rank": None, "lm_head": True,
        "max_position_embeddings": 8192, "moe_intermediate_size": 896, "n_group": 1, "n_routed_experts": 64,
        "n_shared_experts": 2, "num_attention_heads": 10, "num_experts_per_tok": 6, "num_hidden_layers": 12,
        "num_key_value_heads": 10, "q_lora_rank": None, "qk_nope_head_dim": 0, "qk_rope_head_dim": 0,
        "rm_head": False, "topk_group": 1, "topk_method": "greedy", "use_mla": False, "v_head_dim": 0,
        "vocab_size": 129280,
    },
    "projector_config": {"input_dim": 896, "model_type": "mlp_projector", "n_embed": 1280, "projector_type": "linear"},
    "vision_config": {
        "image_size": 1024, "mlp_ratio": 3.7362, "model_name": "deepencoderv2", "model_type": "vision",
        "width": {
            "qwen2-0-5b": {"dim": 896},
            "sam_vit_b": {"downsample_channels": [512, 1024], "global_attn_indexes": [2, 5, 8, 11], "heads": 12,
                          "layers": 12, "width": 768},
        },
    },
}  # fmt: skip
"""The configuration that the model was published with."""
LARGER = {"size": {"height": 256, "width": 256}, "tile_size": 192, "max_patches": 6}
"""Views in which a query stands for 16 x 16 pixels, as the processor counts them; the number of tiles that it takes."""


def read(config, processor=PROCESSOR):
    source = Source(path=BUILT_IN, config=config, generation={}, processor=processor, tensors={})
    return detect(config, "config.json").config(source)


def theirs(**settings):
    """transformers' processor of images."""
    return DeepseekOcr2ImageProcessorPil(**{k: v for k, v in settings.items() if k != "image_processor_type"})


@pytest.mark.parametrize("changes", [{}, LARGER, {"crop_to_patches": False}, {"background_color": [0, 255, 9]}])
@pytest.mark.parametrize("size", [(200, 120), (1, 1), (333, 77), (100, 100), (101, 60), (90, 400)])
def test_pixels_equal(size, changes):
    settings = PROCESSOR | changes
    expected = theirs(**settings)(picture(*size), return_tensors="np")
    image = read(CONFIG, settings).image
    found = cut_patches(picture(*size), image)
    tiles, whole = views(found, 4)
    np.testing.assert_array_equal(whole, expected["pixel_values"])
    count = int(expected["num_local_patches"][0])
    assert len(tiles) == count
    if count:
        np.testing.assert_array_equal(tiles, expected["pixel_values_local"])
    assert found.tokens == 144 * count + image.overview.tokens + 1


def test_ids_equal(tmp_path):
    """Every query is an image token, and one more ends the image."""
    settings = PROCESSOR | LARGER
    folder = reference.checkpoint(PLAIN, reference.hf_model(PLAIN), tmp_path / "hf")
    (folder / "config.json").write_text(json.dumps(with_sam(image_size=256)))
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").unlink()
    lmm = rave_mlx.load(resized(folder))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    processor = DeepseekOcr2Processor(theirs(**settings), tokenizer, patch_size=4)
    pages = [picture(300, 200), picture(80, 60)]
    expected = processor(images=pages, text=["<image>\n<image>\nWhat is it? "], return_tensors="np")
    prompt = lmm.prepare([ask("What is it? ", *pages)])
    assert prompt.ids[0].tolist() == expected["input_ids"][0].tolist()
    assert prompt.visual_tokens == 144 * expected["num_local_patches"].sum() + 2 * 257 > 600


def resized(folder):
    """A checkpoint whose positions are those of its configuration's size."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = "model.vision_tower.sam_encoder.pos_embed"
    tensors[name] = np.zeros((1, 64, 64, tensors[name].shape[-1]), np.float32)
    for kind in ("rel_pos_h", "rel_pos_w"):
        tensors[f"model.vision_tower.sam_encoder.layers.1.attn.{kind}"] = np.zeros((127, 16), np.float32)
    save_file(tensors, file, {"format": "pt"})
    return folder


def test_where_tokens_lie():
    """Tokens of a tile show the tile, those of the view of the whole the page, the last one nothing."""
    config = read(CONFIG)
    image = cut_patches(picture(200, 120), config.image)
    found = locate_tokens(image, config.image, config.connector)
    assert image.arrangement == (1, 2) and len(found.boxes) == 2 * 144 + 257
    np.testing.assert_allclose(found.boxes[[0, 143]], [[0, 0, 100, 120]] * 2)
    np.testing.assert_allclose(found.boxes[144], [100, 0, 200, 120])
    np.testing.assert_allclose(found.boxes[288], [0, 0, 200, 120])
    assert np.isnan(found.boxes[-1]).all() and not found.overview[:288].any() and found.overview[288:].all()
    small = cut_patches(picture(60, 90), config.image)
    assert small.grid[0] == 0 and not locate_tokens(small, config.image, config.connector).overview.any()


def test_a_budget_leaves_tiles_out():
    config = read(CONFIG).image
    for budget, tiles in ((257, 0), (544, 0), (545, 2), (10000, 3)):
        assert cut_patches(picture(300, 100), config, budget).grid[0] == tiles


def test_the_published_model():
    """3,389,119,360 weights, as many as the class of transformers has for the same sizes; its own names are read."""
    config = read(PUBLISHED, {})
    parts = [Decoder(config), build_tower(config.vision), build_connector(config.connector, config.vision)]
    ours = sum(a.size for part in parts for _, a in tree_flatten(part.parameters()))
    text = {k: v for k, v in PUBLISHED["language_config"].items() if k not in ("architectures", "kv_lora_rank")}
    hub = {
        "text_config": {k: v for k, v in text.items() if v is not None}
        | {"mlp_layer_types": ["dense"] + ["sparse"] * 11},
        "vision_config": {
            "sam_config": {},
            "encoder_config": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
                               "num_attention_heads": 14, "num_key_value_heads": 2,
                               "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
        },
    }  # fmt: skip
    with torch.device("meta"):
        model = transformers.DeepseekOcr2ForConditionalGeneration(transformers.DeepseekOcr2Config(**copy.deepcopy(hub)))
    assert ours == sum(p.numel() for p in model.parameters()) == 3_389_119_360
    modern = read({"model_type": "deepseek_ocr2", **hub}, {})
    assert modern == config
    assert (config.image.tile_tokens, config.image.overview.tokens, config.image.max_tiles) == (144, 256, 6)
    assert config.text.experts.layers == tuple(range(1, 12)) and config.text.rope.theta == 10000.0
    assert read(PUBLISHED | {"model_type": "deepseekocr_2", "text_config": PUBLISHED["language_config"]}, {}) == config


def test_defaults_are_those_of_the_classes():
    kinds = {"TextConfig": deepseek.TEXT, "VisionEncoderConfig": deepseek_ocr2.ENCODER}
    for kind, defaults in kinds.items():
        found = getattr(transformers.models.deepseek_ocr2, f"DeepseekOcr2{kind}")()
        assert {name: getattr(found, name) for name in defaults} == dict(defaults)
    sam = transformers.models.deepseek_ocr2.DeepseekOcr2SamVisionConfig()
    widths = ENCODER | {"hidden_size": 896}
    ours = read(CONFIG | {"vision_config": {"sam_config": {}, "encoder_config": widths}}, {}).vision
    patches = ours.patches
    assert (sam.hidden_size, sam.mlp_dim, sam.num_hidden_layers, sam.num_attention_heads, sam.image_size) == (
        patches.hidden_size, patches.intermediate_size, patches.depth, patches.num_heads, patches.tile_size
    )  # fmt: skip
    assert (sam.downsample_channels, list(sam.global_attn_indexes)) == (
        [ours.middle_size, ours.hidden_size], list(patches.full_attention_layers)
    )  # fmt: skip
    processor = DeepseekOcr2ImageProcessorPil()
    image = read(PUBLISHED, {}).image
    assert (processor.tile_size, processor.size.height, processor.min_patches, processor.max_patches) == (
        image.tile_size, image.overview.size, image.min_tiles, image.max_tiles
    )  # fmt: skip
    assert tuple(processor.background_color) == image.overview.color


@pytest.mark.parametrize("ties", [(a, b) for a in (None, True, False) for b in (None, True, False)])
def test_ties_are_those_of_transformers(ties):
    outer, inner = ({} if tie is None else {"tie_word_embeddings": tie} for tie in ties)
    config = {k: v for k, v in CONFIG.items() if k != "tie_word_embeddings"} | outer
    config["text_config"] = {k: v for k, v in TEXT.items() if k != "tie_word_embeddings"} | inner
    with torch.device("meta"):
        model = transformers.DeepseekOcr2ForConditionalGeneration(
            transformers.DeepseekOcr2Config(**json.loads(json.dumps(config)))
        )
    tied = model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert read(config).text.tie_embeddings == tied


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The checkpoint, transformers' model of it, ours and a prompt."""
    model = reference.hf_model(PLAIN)
    folder = reference.checkpoint(PLAIN, model, tmp_path_factory.mktemp("deepseek") / "hf")
    lmm = rave_mlx.load(folder)
    return folder, model, lmm, lmm.prepare([ask("What is it?", picture(60, 90))])


def test_names_of_every_origin(base, tmp_path):
    """An export has the names that transformers writes, which the model was published under; mlx-vlm has others."""
    folder, model, lmm, prompt = base
    model.save_pretrained(tmp_path / "theirs")
    convert(folder, tmp_path / "rave")
    export(tmp_path / "rave", tmp_path / "ours")
    names = [set(load_file(tmp_path / part / "model.safetensors")) for part in ("theirs", "ours")]
    assert names[0] == names[1]
    assert {"model.sam_model.blocks.1.norm2.bias", "model.qwen2_model.query_768.weight", "model.view_seperator",
            "model.layers.1.mlp.experts.5.up_proj.weight"} <= names[0]  # fmt: skip
    expected = np.array(lmm.logits(prompt))
    tensors = load_file(folder / "model.safetensors")
    written = {mlx_name(n): x.transpose(0, 2, 3, 1) if x.ndim == 4 and "pos_embed" not in n else x
               for n, x in stacked(tensors).items()}  # fmt: skip
    (folder.parent / "mlx").mkdir()
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (folder.parent / "mlx" / file.name).write_bytes(file.read_bytes())
    mx.save_safetensors(
        str(folder.parent / "mlx" / "model.safetensors"),
        {n: mx.array(x) for n, x in written.items()},
        metadata={"format": "mlx"},
    )
    assert np.array_equal(np.array(rave_mlx.load(folder.parent / "mlx").logits(prompt)), expected)


def stacked(tensors):
    """Experts as mlx-vlm stacks them."""
    found = {}
    for name, x in tensors.items():
        stem, _, part = name.partition(".experts.")
        if part == "down_proj":
            found[f"{stem}.switch_mlp.down_proj.weight"] = x
        elif part:
            half = x.shape[1] // 2
            found[f"{stem}.switch_mlp.gate_proj.weight"], found[f"{stem}.switch_mlp.up_proj.weight"] = (
                x[:, :half], x[:, half:]
            )  # fmt: skip
        else:
            found[name] = x
    return found


def mlx_name(name):
    """mlx-vlm 0.7.10's name of a tensor, from transformers 5's."""
    for old, new in (
        ("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head."),
        ("model.vision_tower.query_768_resolution.weight", "vision_model.qwen2_encoder.query_768"),
        ("model.vision_tower.query_1024_resolution.weight", "vision_model.qwen2_encoder.query_1024"),
        ("model.vision_tower.vision_encoder.", "vision_model.qwen2_encoder."),
        ("model.vision_tower.sam_encoder.", "sam_model."), ("model.multi_modal_projector.", "projector.layers."),
        ("model.view_separator", "view_separator"),
    ):  # fmt: skip
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    if name.startswith("sam_model."):
        for old, new in (
            ("sam_model.layers.", "sam_model.blocks."), ("layer_norm1.", "norm1."), ("layer_norm2.", "norm2."),
            ("patch_embed.projection", "patch_embed.proj"), ("neck.conv1", "neck.0"), ("neck.norm1", "neck.1"),
            ("neck.conv2", "neck.2"), ("neck.norm2", "neck.3"), ("model.proj.conv1", "model.net_2"),
            ("model.proj.conv2", "model.net_3"),
        ):  # fmt: skip
            name = name.replace(old, new)
    return name


def test_what_mlx_vlm_packed_stays_packed(base, tmp_path):
    """Experts, the encoder and SAM's matrices in 8 bits; queries, routers and convolutions are none of them."""
    folder, _, _, prompt = base
    tensors, plain, written = load_file(folder / "model.safetensors"), {}, {}
    for name, x in stacked(tensors).items():
        new, value = mlx_name(name), mx.array(x.transpose(0, 2, 3, 1) if x.ndim == 4 and "pos_embed" not in name else x)
        packs = name.endswith(".weight") and x.ndim in (2, 3) and "query_" not in name and ".mlp.gate." not in name
        if packs and x.shape[-1] % 32 == 0:
            parts = mx.quantize(value, group_size=32, bits=8)
            stem = new.removesuffix(".weight")
            written |= dict(zip((f"{stem}.weight", f"{stem}.scales", f"{stem}.biases"), parts, strict=True))
            plain[new] = mx.dequantize(*parts, group_size=32, bits=8)
        else:
            written[new] = plain[new] = value
    for kind, weights, more in (
        ("packed", written, {"quantization": {"group_size": 32, "bits": 8}}),
        ("plain", plain, {}),
    ):
        (tmp_path / kind).mkdir()
        for file in folder.iterdir():
            if file.suffix != ".safetensors":
                (tmp_path / kind / file.name).write_bytes(file.read_bytes())
        (tmp_path / kind / "config.json").write_text(json.dumps(CONFIG | more))
        mx.save_safetensors(str(tmp_path / kind / "model.safetensors"), weights, metadata={"format": "mlx"})
    lmm = rave_mlx.load(tmp_path / "packed")
    packing = lmm.config.quantization
    assert packing is not None and packing.of("decoder.layers.1.mlp.experts.gate_proj") is not None
    assert packing.of("vision.patches.layers.0.fc1") is not None and packing.of("vision.halve1.proj") is None
    assert packing.of("decoder.layers.1.mlp.router") is None
    assert relative(lmm.logits(prompt), rave_mlx.load(tmp_path / "plain").logits(prompt)) <= 1e-5


def trained(base, out, kind="lora", gates=False):
    """An adapter on everything that takes one, whose numbers are drawn instead of trained."""
    folder, _, _, prompt = base
    lmm, config = prepare(
        rave_mlx.load(folder), TrainConfig(gates=gates, adapter=AdapterSettings(rank=4, kind=kind, modules=("all",)))
    )
    rng = np.random.default_rng(0)
    drawn = {n: mx.array(rng.normal(0, 0.2, x.shape).astype(np.float32)) for n, x in trained_weights(lmm).items()
             if not n.endswith(".m")}  # fmt: skip
    lmm.load_weights(list(drawn.items()), strict=False)
    lmm.eval()
    adapters.save(lmm, config, out)
    return lmm.logits(prompt), config


def test_peft_runs_our_adapter(base, tmp_path):
    """The dense layer's MLP and the shared ones are adapted, experts and routers are not."""
    folder, _, _, prompt = base
    logits, config = trained(base, tmp_path / "own")
    assert "decoder.layers.0.mlp.up_proj" in config.modules
    assert "decoder.layers.1.mlp.shared.up_proj" in config.modules
    export_peft(tmp_path / "own", folder, tmp_path / "peft")
    model = peft.PeftModel.from_pretrained(reference.hf_model(PLAIN), tmp_path / "peft").eval()
    assert relative(logits, reference.hf_logits(PLAIN, model, [prompt])) < 1e-5
    assert relative(rave_mlx.load(folder, adapter=tmp_path / "peft").logits(prompt), logits) < 1e-6


def test_we_run_pefts_adapter(base, tmp_path):
    """On every linear layer of the decoder, the encoder, SAM's tower and the projector."""
    folder, _, _, prompt = base
    torch.manual_seed(0)
    model = peft.get_peft_model(
        reference.hf_model(PLAIN), peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    ).eval()
    model.save_pretrained(tmp_path / "peft")
    ours = rave_mlx.load(folder, adapter=tmp_path / "peft").logits(prompt)
    assert relative(ours, reference.hf_logits(PLAIN, model, [prompt])) < 1e-5


def test_fused_adapters_and_gates(base, tmp_path):
    logits, _ = trained(base, tmp_path / "own", gates=True)
    convert(base[0], tmp_path / "rave")
    fuse(tmp_path / "rave", tmp_path / "own", tmp_path / "fused")
    fused = rave_mlx.load(tmp_path / "fused")
    assert fused.config.gate is not None
    assert relative(fused.logits(base[3]), logits) < 1e-5


def test_gradients_of_tower_and_experts_are_those_of_torch(base):
    """Of a sum of logits by every weight: tower, encoder, queries, the end of an image, routers, experts."""
    _, model, lmm, prompt = base
    weights = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (len(prompt), 288)).astype(np.float32))
    model.zero_grad()
    (model(**reference.batch(PLAIN, [prompt])).logits[0] * weights).sum().backward()
    expected = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    ours = nn.value_and_grad(lmm, lambda m: (m.logits(prompt)[0] * mx.array(weights.numpy())).sum())(lmm)[1]
    found = dict(tree_flatten(ours))
    checked = 0
    for name, grad in found.items():
        place = deepseek_ocr2.origin(name, lmm.config, CONFIG).name
        if place in expected and ".experts." not in place:
            checked += 1
            assert relative(grad.reshape(-1), expected[place].reshape(-1)) <= 1e-4, name
    assert checked > 90
    stem = "model.language_model.layers.1.mlp.experts"
    fused = np.concatenate([found[f"decoder.layers.1.mlp.experts.{p}_proj.weight"] for p in ("gate", "up")], axis=1)
    assert relative(fused, expected[f"{stem}.gate_up_proj"]) <= 1e-4
    model.zero_grad()


@pytest.mark.parametrize("settings", [TrainConfig(), TrainConfig(gates=False, adapter=None, full=("vision",))])
def test_training_changes_what_it_should(base, settings, tmp_path):
    """Gates and updates, or the whole tower with its queries; images are known before they are read."""
    picture(120, 60).save(tmp_path / "a.png")
    row = {"image": "a.png", "question": "What?", "answer": "Words."}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    lmm, _ = prepare(rave_mlx.load(base[0]), settings)
    dataset = open_dataset(tmp_path, lmm)
    assert dataset.stats[0].visual == 2 * 144 + 257
    batch = collate(list(dataset))
    features = None if settings.full else FeatureCache(lmm).read(batch.images)
    grads = nn.value_and_grad(lmm, lambda: loss(lmm, batch, features)[0])()[1]
    moved = {name for name, x in tree_flatten(grads) if float(mx.abs(x).max()) > 1e-6}
    if settings.full:
        assert {n.split(".")[0] for n in moved} == {"vision"}
        assert {"vision.queries.0.vectors", "vision.patches.positions", "vision.halve2.proj.weight"} <= moved
    else:
        assert moved and not any(".mlp.experts." in name or ".router." in name for name in moved)
    (shown,) = {len(seen(image, lmm.config.image)) for image in batch.images}
    assert shown == 3  # two tiles and the whole image


def with_text(**changes):
    return CONFIG | {"text_config": TEXT | changes}


def with_sam(**changes):
    return CONFIG | {"vision_config": VISION | {"sam_config": SAM | changes}}


def with_encoder(**changes):
    return CONFIG | {"vision_config": VISION | {"encoder_config": ENCODER | changes}}


def without(config, *path):
    """A configuration that lacks a key."""
    config = copy.deepcopy(config)
    section = config
    for name in path[:-1]:
        section = section[name]
    del section[path[-1]]
    return config


@pytest.mark.parametrize(
    ("hub", "processor", "named"),
    [
        (without(CONFIG, "text_config"), {}, "text_config is missing"),
        (without(CONFIG, "vision_config"), {}, "vision_config is missing"),
        (without(CONFIG, "vision_config", "sam_config"), {}, "sam_config is missing"),
        (without(CONFIG, "vision_config", "encoder_config"), {}, "encoder_config is missing"),
        (without(CONFIG, "text_config", "mlp_layer_types"), {}, "mlp_layer_types is missing"),
        (without(CONFIG, "text_config", "num_experts_per_tok"), {}, "num_experts_per_tok is missing"),
        (with_text(model_type="deepseek_v2"), {}, "model_type 'deepseek_v2'"),
        (with_text(mlp_layer_types=["dense", "sparse"]), {}, "mlp_layer_types has 2 entries"),
        (with_text(mlp_layer_types=["dense", "sparse", "moe"]), {}, "mlp_layer_types has 'moe'"),
        (with_text(num_experts_per_tok=7), {}, "num_experts_per_tok is 7"),
        (with_text(topk_method="noaux_tc"), {}, "topk_method 'noaux_tc'"),
        (with_text(topk_method="group_limited_greedy", n_group=4), {}, "n_group 4 does not divide 6"),
        (with_text(topk_method="group_limited_greedy", n_group=3, topk_group=4), {}, "4 of 3 groups"),
        (with_text(topk_method="group_limited_greedy", n_group=None), {}, "n_group is missing"),
        (with_text(scoring_func="sigmoid"), {}, "scoring_func 'sigmoid'"),
        (with_text(norm_topk_prob=True), {}, "norm_topk_prob True"),
        (with_text(kv_lora_rank=512), {}, "kv_lora_rank asks for multi-head latent attention"),
        (with_text(n_shared_experts=0), {}, "n_shared_experts is 0"),
        (with_text(num_attention_heads=5), {}, "5 heads"),
        (with_text(hidden_act="gelu"), {}, "hidden_act 'gelu'"),
        (with_encoder(use_sliding_window=True), {}, "use_sliding_window True"),
        (with_encoder(layer_types=["sliding_attention"] * 2), {}, "layer_types"),
        (with_encoder(model_type="qwen2"), {}, "model_type 'qwen2'"),
        (with_encoder(hidden_size=40), {}, "downsample_channels ends in 48"),
        (with_sam(downsample_channels=[24]), {}, "downsample_channels [24]"),
        (with_sam(model_type="sam"), {}, "model_type 'sam'"),
        (with_sam(image_size=[208, 104]), {}, "image_size [208, 104]"),
        (CONFIG, {"size": {"height": 208, "width": 104}}, "equal height and width"),
        (CONFIG, {"tile_size": 3}, "3 pixels hold no patch of 4"),
        (CONFIG, {"min_patches": 4}, "min_tiles 4"),
        (CONFIG, {"do_normalize": False}, "do_normalize False"),
        (CONFIG, {"background_color": [1, 2]}, "overview.color [1, 2]"),
        (PUBLISHED | {"tile_tag": "1D"}, {}, "tile_tag '1D'"),
        (without(PUBLISHED, "language_config"), {}, "language_config is missing"),
        (without(PUBLISHED, "projector_config"), {}, "projector_config is missing"),
    ],
)
def test_what_is_not_supported_is_named(hub, processor, named):
    with pytest.raises(ConfigError) as caught:
        read(hub, PROCESSOR | processor)
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_relatives_are_refused_by_name():
    with pytest.raises(ModelError, match="'deepseek_vl_v2' is not supported"):
        read(PUBLISHED | {"architectures": ["DeepseekOCRForCausalLM"]})


@pytest.mark.parametrize(("size", "count"), [(64, 48), (11, 7), (7, 12), (52, 12)])
def test_positions_are_scaled_as_in_torch(size, count):
    square = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    scaled = torch.nn.functional.interpolate(square, (count, count), mode="bicubic", antialias=True)
    found = rescaled_square(mx.array(square[0].permute(1, 2, 0).reshape(-1, 3).numpy()), count)
    assert relative(found, scaled[0].permute(1, 2, 0).reshape(-1, 3).numpy()) < 2e-6
    line = square[:, :, 0]
    expected = torch.nn.functional.interpolate(line, count, mode="linear")[0].T.numpy()
    assert relative(rescaled_line(mx.array(line[0].T.numpy()), count), expected) < 2e-6
