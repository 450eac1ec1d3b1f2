"""Granite-Docling against transformers where logits alone would not tell: tiles, prompts, places, adapters."""

from __future__ import annotations

import json
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from families.granite_docling import COARSE, CONFIG, PLAIN, PROCESSOR
from families.idefics3 import tiles
from mlx.utils import tree_flatten
from support import ask, picture, relative

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
from tokenizers import Tokenizer  # noqa: E402
from transformers.models.granite_docling import image_processing_pil_granite_docling as theirs_pil  # noqa: E402
from transformers.models.granite_docling import modeling_granite_docling as theirs_model  # noqa: E402
from transformers.models.granite_docling.processing_granite_docling import GraniteDoclingProcessor  # noqa: E402

import rave_mlx  # noqa: E402
from parity import golden as reference  # noqa: E402
from rave_mlx.checkpoint.directory import BUILT_IN  # noqa: E402
from rave_mlx.convert.families import detect, granite_docling  # noqa: E402
from rave_mlx.convert.source import Source  # noqa: E402
from rave_mlx.errors import ConfigError  # noqa: E402
from rave_mlx.inputs.images.tiling import cut_tiles  # noqa: E402
from rave_mlx.models.connectors import build_connector  # noqa: E402
from rave_mlx.models.connectors.paths import places  # noqa: E402
from rave_mlx.models.decoder import Decoder  # noqa: E402
from rave_mlx.models.vision import build_tower  # noqa: E402
from rave_mlx.train.batch import collate  # noqa: E402
from rave_mlx.train.config import TrainConfig  # noqa: E402
from rave_mlx.train.dataset import open_dataset  # noqa: E402
from rave_mlx.train.features import FeatureCache  # noqa: E402
from rave_mlx.train.loss import loss  # noqa: E402
from rave_mlx.train.parameters import prepare  # noqa: E402

EMPTY = {"model_type": "granite_docling", "text_config": {}, "vision_config": {}}
"""The classes' own sizes, which are those of granite-for-docling-500m."""
WHOLE = {"image_processor_type": "GraniteDoclingImageProcessor", "image_mean": [0.5] * 3}
SIZES = [(7, 5), (32, 32), (300, 20), (20, 300), (1, 90), (111, 113), (1000, 4), (333, 77), (620, 877), (900, 500)]


def read(config, processor):
    source = Source(path=BUILT_IN, config=config, generation={}, processor=processor, tensors={})
    return detect(config, "config.json").config(source)


def theirs(config):
    with torch.device("meta"):
        return transformers.GraniteDoclingForConditionalGeneration(
            transformers.GraniteDoclingConfig(**json.loads(json.dumps(config)))
        )


@pytest.mark.parametrize(
    ("router", "total"), [(None, 543_428_352), (256, 543_627_778)], ids=["without a router", "with a router"]
)
def test_the_published_model_has_the_weights_of_transformers(router, total):
    hub = EMPTY | ({} if router is None else {"density_router_hidden_size": router})
    config = read(hub, WHOLE)
    parts = [Decoder(config), build_tower(config.vision), build_connector(config.connector, config.vision)]
    found = sum(a.size for part in parts for _, a in tree_flatten(part.parameters()))
    assert found == sum(p.numel() for p in theirs(hub).parameters()) == total
    assert (config.image.tile_tokens, config.image.max_tiles, config.image.max_side) == (64, 32, 16)
    assert read(hub, WHOLE | {"fine_route": True}).image.tile_tokens == 256


def test_defaults_are_those_of_the_classes():
    for defaults, kind in ((granite_docling.TEXT, "Text"), (granite_docling.VISION, "Vision")):
        found = getattr(transformers, f"GraniteDocling{kind}Config")()
        assert {name: getattr(found, name) for name in defaults} == defaults
    found = theirs_pil.GraniteDoclingImageProcessorPil()
    for name, value in granite_docling.PROCESSOR.items():
        own = getattr(found, name)
        assert ({"height": own.height, "width": own.width} if name == "size" else own) == value, name


@pytest.mark.parametrize("ties", [(a, b) for a in (None, True, False) for b in (None, True, False)])
def test_ties_are_those_of_transformers(ties):
    outer, inner = ({} if tie is None else {"tie_word_embeddings": tie} for tie in ties)
    config = {k: v for k, v in CONFIG.items() if k != "tie_word_embeddings"} | outer
    text = {k: v for k, v in CONFIG["text_config"].items() if k != "tie_word_embeddings"}
    config["text_config"] = text | inner
    model = theirs(config)
    tied = model.lm_head.weight is model.model.text_model.embed_tokens.weight
    assert read(config, PROCESSOR).text.tie_embeddings == tied


@pytest.mark.parametrize("side", [1, 4, 8])
def test_places_in_a_tile(side):
    expected = theirs_model.GraniteDoclingPositionEmbedding.build(64, side).numpy()
    assert np.abs(places(side, 64) - expected).max() < 1e-6


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_patches": 40, "image_mean": [0.4, 0.5, 0.6], "resample": 2},
        {"crop_to_patches": False},
        {"min_patches": 2, "max_patches": 3},
        {"dense_max_patches": 12, "dense_max_scale": 0.5},
        {"dense_max_patches": 12, "dense_min_aspect": 1.2, "dense_max_aspect": 5.0},
        {"dense_max_patches": 12},
    ],
    ids=str,
)
def test_pixels(size, changes):
    """Tiles of pages of every shape, wide ones with more of them; a side of more than 16 is never made."""
    settings = PROCESSOR | changes
    processor = theirs_pil.GraniteDoclingImageProcessorPil(
        **{k: v for k, v in settings.items() if k != "image_processor_type"}
    )
    expected = processor(picture(*size), return_tensors="np")
    config = read(CONFIG, settings).image
    image = cut_tiles(picture(*size), config, 10**9)
    np.testing.assert_array_equal(tiles(image, 32), expected["pixel_values"][0])
    assert image.arrangement == (expected["rows"][0][0], expected["cols"][0][0])


@pytest.mark.parametrize("name", ["granite_docling", "granite_docling-fine"])
def test_ids_equal(name, tmp_path):
    """What the processor puts in an image's place, through the tokenizer's own reading."""
    case = cases()[name]
    folder = write_checkpoint(case, tmp_path / "hf")
    lmm, tokenizer = rave_mlx.load(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    fine = case.processor["fine_route"]
    processor = SimpleNamespace(
        image_seq_len=4, image_token="<image>", fake_image_token="<fake_token_around_image>",
        global_image_tag="<global-img>",
    )  # fmt: skip
    for conversation in case.conversations:
        prompt = lmm.prepare(CONVERSATIONS[conversation])
        arranged = [image.arrangement for image in prompt.images]
        inputs = {"rows": [[r for r, _ in arranged]], "cols": [[c for _, c in arranged]]}
        inputs |= {"tile_fine_mask": None} if fine else {}
        template = lmm.template.render(CONVERSATIONS[conversation], add_generation_prompt=True)
        first, *rest = template.split("<image>")
        spans = [GraniteDoclingProcessor.replace_image_token(processor, inputs, i) for i in range(len(rest))]
        whole = first + "".join(span + after for span, after in zip(spans, rest, strict=True))
        assert tokenizer.encode(whole, add_special_tokens=False).ids == prompt.ids[0].tolist()


@pytest.mark.parametrize(
    ("section", "change", "error"),
    [
        ("text_config", {"model_type": "granitemoehybrid"}, "model_type 'granitemoehybrid' is not supported"),
        ("text_config", {"residual_multiplier": 0.0}, "residual_multiplier 0.0 must be above 0"),
        ("text_config", {"logits_scaling": "4"}, "logits_scaling should be float"),
        ("text_config", {"hidden_act": "relu"}, "hidden_act 'relu' is not one of"),
        ("vision_config", {"out_hidden_size": 48}, "out_hidden_size 48 is not supported, only 64"),
        ("vision_config", {"scale_factor": 3}, "connector.scale 3: the fine path joins half as many"),
        ("vision_config", {"scale_factor": 1}, "connector.scale 1: the fine path joins half as many"),
        (
            "vision_config",
            {"deepstack_visual_indexes": [2, 0]},
            r"deepstack_visual_indexes \[2, 0\] should name layers",
        ),
        (
            "vision_config",
            {"deepstack_visual_indexes": [0, 4]},
            r"deepstack_visual_indexes \[0, 4\] should name layers",
        ),
        ("vision_config", {"use_fine_route": False}, "there is no fine path to take"),
        ("vision_config", {"image_size": [32, 32]}, r"image_size should be int, found \[32, 32\]"),
        ("processor", {"size": {"height": 64, "width": 64}}, "does not fit the tower, which reads tiles of 32"),
        ("processor", {"fine_route": "yes"}, "fine_route should be bool"),
        ("processor", {"dense_max_patches": -3}, "DenseTiles.max_tiles must be at least 1"),
        ("processor", {"max_patches": 0}, "tiles must be at least 1"),
    ],
)
def test_what_is_not_implemented_is_refused(section, change, error):
    config, processor = CONFIG, PROCESSOR
    if section == "processor":
        processor = PROCESSOR | change
    else:
        config = CONFIG | {section: CONFIG[section] | change}
    with pytest.raises(ConfigError, match=error):
        read(config, processor)


def test_a_fine_route_needs_its_weights():
    with pytest.raises(ConfigError, match="there is no fine path to take"):
        read(COARSE, PROCESSOR | {"fine_route": True})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The checkpoint, with heads of a serving engine beside it, and a prompt."""
    folder = write_checkpoint(PLAIN, tmp_path_factory.mktemp("granite") / "hf")
    file = str(folder / "model.safetensors")
    mx.save_safetensors(
        file, dict(mx.load(file)) | {"mtp.layers.0.norm.weight": mx.ones(64)}, metadata={"format": "pt"}
    )
    return folder, rave_mlx.load(folder).prepare(CONVERSATIONS["one image"])


@pytest.mark.parametrize("dora", [False, True])
def test_we_run_pefts_adapter(base, dora, tmp_path):
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=4, use_dora=dora, target_modules="all-linear", init_lora_weights=False)
    model = peft.get_peft_model(reference.hf_model(PLAIN), settings).eval()
    model.save_pretrained(tmp_path / "peft")
    ours = rave_mlx.load(base[0], adapter=tmp_path / "peft").logits(base[1])
    assert relative(ours, reference.hf_logits(PLAIN, model, [base[1]])) < 1e-5


def test_gradients_are_the_same_however_they_are_kept(base, tmp_path):
    """Of gates and updates: scaled residuals pass through selective and full checkpointing."""
    picture(40, 30).save(tmp_path / "a.png")
    row = {"image": "a.png", "question": "What?", "answer": "Words."}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    lmm, _ = prepare(rave_mlx.load(base[0]), TrainConfig())
    batch = collate(list(open_dataset(tmp_path, lmm)))
    features = FeatureCache(lmm).read(batch.images)
    found = []
    for checkpoint in (False, True):
        step = nn.value_and_grad(lmm, lambda c=checkpoint: loss(lmm, batch, features, checkpoint=c)[0])
        value, gradient = step()
        found.append((float(value), dict(tree_flatten(gradient))))
    (first, plain), (second, again) = found
    assert abs(first - second) < 1e-5
    moved = {n: x for n, x in plain.items() if float(mx.abs(x).max()) > 1e-6}
    assert moved
    assert all(relative(again[n], x) < 1e-4 for n, x in moved.items())


def test_the_budget_of_tokens_is_kept(base):
    """Fewer tiles of the same plan, the tile with the whole page included."""
    lmm = rave_mlx.load(base[0])
    for budget, most in ((8, 1), (16, 3), (100, 6)):
        image = lmm.prepare([ask("Read.", picture(300, 200))], image_tokens=budget).images[0]
        assert image.arrangement[0] * image.arrangement[1] <= most
        assert image.tokens <= budget
