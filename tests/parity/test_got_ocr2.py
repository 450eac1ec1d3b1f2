"""GOT-OCR 2.0 against transformers where logits alone would not tell, what is published of it, and what is refused."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from families.got_ocr2 import CONFIG, PLAIN, PROCESSOR, VISION
from families.llava import tiles
from mlx.utils import tree_flatten
from support import ask, picture
from tokenizers import Tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil  # noqa: E402
from transformers.models.got_ocr2.processing_got_ocr2 import GotOcr2Processor  # noqa: E402

import rave_mlx  # noqa: E402
from rave_mlx.checkpoint.directory import BUILT_IN  # noqa: E402
from rave_mlx.convert.families import detect, got_ocr2  # noqa: E402
from rave_mlx.convert.source import Source  # noqa: E402
from rave_mlx.errors import ConfigError  # noqa: E402
from rave_mlx.inputs.images.preprocess import cut_patches  # noqa: E402
from rave_mlx.inputs.images.token_boxes import locate_tokens  # noqa: E402
from rave_mlx.inputs.prompt.chat_template import ChatTemplate  # noqa: E402
from rave_mlx.models.connectors import build_connector  # noqa: E402
from rave_mlx.models.decoder import Decoder  # noqa: E402
from rave_mlx.models.vision import build_tower  # noqa: E402


def read(config, processor=PROCESSOR):
    source = Source(path=BUILT_IN, config=config, generation={}, processor=processor, tensors={})
    return detect(config, "config.json").config(source)


@pytest.mark.parametrize("crops", [{}, {"crop_to_patches": True, "max_patches": 5}], ids=["one tile", "tiles"])
@pytest.mark.parametrize("size", [(200, 120), (1, 1), (333, 77), (44, 44), (90, 400)])
def test_pixels_equal(size, crops):
    settings = {k: v for k, v in (PROCESSOR | crops).items() if k != "image_processor_type"}
    expected = GotOcr2ImageProcessorPil(**settings)(picture(*size), return_tensors="np")
    found = cut_patches(picture(*size), read(CONFIG, PROCESSOR | crops).image)
    np.testing.assert_array_equal(tiles(found, 44), expected["pixel_values"])
    assert found.tokens == 9 * expected["num_patches"][0]


def written(query, images=1):
    """GotOcr2Processor's own prompt, as `prepare_inputs_layout` puts it together."""
    processor = GotOcr2Processor.__new__(GotOcr2Processor)
    processor.message_start_token, processor.message_end_token = "<|im_start|>", "<|im_end|>"
    processor.img_start_token, processor.img_end_token, processor.image_token = "<img>", "</img>", "<imgpad>"
    processor.system_query = "system\nYou should follow the instructions carefully and explain your answers in detail."
    return (
        f"{processor.message_start_token}{processor.system_query}{processor.message_end_token}"
        f"{processor.message_start_token}user\n<img>{'<imgpad>' * images}</img>\n{query}{processor.message_end_token}"
        f"{processor.message_start_token}assistant\n"
    )


def test_the_template_writes_what_the_processor_writes():
    template = ChatTemplate(got_ocr2.TEMPLATE, {})
    shown = {"type": "image"}
    for images, query in ((1, "OCR: "), (3, "OCR with format across multi pages: ")):
        messages = [{"role": "user", "content": [*[shown] * images, {"type": "text", "text": query}]}]
        assert template.render(messages, add_generation_prompt=True) == written(query, images)


@pytest.mark.parametrize("name", ["got_ocr2", "got_ocr2-tiled"])
def test_ids_equal(name, tmp_path):
    """A checkpoint without a template gets the processor's prompt; every tile is so many image tokens."""
    folder = write_checkpoint(cases()[name], tmp_path / "hf")
    (folder / "chat_template.jinja").unlink()
    lmm = rave_mlx.load(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt = lmm.prepare([ask("OCR:", picture(200, 120))])
    count = prompt.images[0].grid[0] * 9
    whole = written("OCR:").replace("<imgpad>", "<imgpad>" * count)
    assert prompt.ids[0].tolist() == tokenizer.encode(whole, add_special_tokens=False).ids
    assert prompt.visual_tokens == count and (prompt.ids[0] == 274).sum() == count


def test_every_visual_token_has_its_place(tmp_path):
    """Of 11 x 11 patches a token stands for 4 x 4, those at the right and bottom for what is left."""
    lmm = rave_mlx.load(write_checkpoint(PLAIN, tmp_path / "hf"))
    image = lmm.prepare(CONVERSATIONS["one image"]).images[0]
    boxes = locate_tokens(image, lmm.config.image, lmm.config.connector).boxes
    np.testing.assert_allclose(boxes[0], [0, 0, 800 / 11, 480 / 11])
    np.testing.assert_allclose(boxes[8], [1600 / 11, 960 / 11, 200, 120])


def test_the_published_model():
    """560,528,640 weights."""
    hub = json.loads(transformers.GotOcr2Config().to_json_string(use_diff=False))
    hub["text_config"] |= {"eos_token_id": 151645}
    config = read(hub, PROCESSOR | {"size": {"height": 1024, "width": 1024}})
    parts = [Decoder(config), build_tower(config.vision), build_connector(config.connector, config.vision)]
    ours = sum(a.size for part in parts for _, a in tree_flatten(part.parameters()))
    with torch.device("meta"):
        theirs = transformers.GotOcr2ForConditionalGeneration(transformers.GotOcr2Config())
    assert ours == sum(p.numel() for p in theirs.parameters()) == 560_528_640
    assert (config.image.tile_tokens, config.image.plan, config.vision.side) == (256, "single", 64)


def test_what_a_tower_leaves_out_is_its_class_default():
    theirs = transformers.GotOcr2Config(vision_config={}).vision_config
    ours = read(CONFIG | {"vision_config": {}}, PROCESSOR | {"size": {"height": 1024, "width": 1024}}).vision
    pairs = {
        "hidden_size": ours.hidden_size, "mlp_dim": ours.intermediate_size, "num_hidden_layers": ours.depth,
        "num_attention_heads": ours.num_heads, "image_size": ours.tile_size, "patch_size": ours.patch_size,
        "window_size": ours.window_size, "output_channels": ours.output_size, "layer_norm_eps": ours.norm_eps,
        "hidden_act": ours.activation, "global_attn_indexes": ours.full_attention_layers,
    }  # fmt: skip
    assert {name: getattr(theirs, name) for name in pairs} == pairs


def vision(**changes):
    return copy.deepcopy(CONFIG) | {"vision_config": VISION | changes}


@pytest.mark.parametrize(
    ("hub", "processor", "named"),
    [
        (vision(image_size=[44, 48]), {}, "image_size [44, 48]"),
        (vision(patch_size=0), {}, "patch_size 0"),
        (vision(window_size=-1), {}, "windows of -1"),
        (vision(num_attention_heads=5), {}, "5 heads"),
        (vision(hidden_act="relu6"), {}, "hidden_act 'relu6'"),
        (vision(global_attn_indexes=["a"]), {}, "global_attn_indexes ['a']"),
        (vision(model_type="sam"), {}, "model_type 'sam'"),
        (vision(), {"size": {"height": 384, "width": 384}}, "does not fit the tower"),
        (vision(), {"do_normalize": False}, "do_normalize False"),
    ],
)
def test_what_is_not_supported_is_named(hub, processor, named):
    with pytest.raises(ConfigError) as caught:
        read(hub, PROCESSOR | processor)
    assert named in str(caught.value) and "\n" not in str(caught.value)
