"""Idefics3, SmolVLM and InternVL against the image processors, the prompts and the positions of transformers."""

import json
from dataclasses import replace

import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from families.idefics3 import tiles
from safetensors.numpy import load_file, save_file
from support import ask, picture, relative

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch
import transformers
from transformers import InternVLProcessor, PreTrainedTokenizerFast
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionEmbeddings
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

import rave_mlx
from rave_mlx.config import TileConfig
from rave_mlx.inputs.images.tiling import cut_tiles

CASES = cases()
SIZES = [(7, 5), (5, 7), (28, 28), (300, 20), (20, 300), (1, 90), (90, 1), (111, 113), (1000, 4), (333, 77), (620, 877)]
UNLIMITED = 10**9


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("tile", "patch", "edge"), [(28, 7, 112), (30, 7, 90), (27, 9, 95), (32, 8, 20)])
@pytest.mark.parametrize("processor", [Idefics3ImageProcessorPil, SmolVLMImageProcessorPil])
@pytest.mark.parametrize("splits", [True, False])
def test_split_pixels(size, tile, patch, edge, processor, splits):
    settings = {"size": {"longest_edge": edge}, "max_image_size": {"longest_edge": tile}}
    theirs = processor(**settings, do_image_splitting=splits, return_row_col_info=True)(picture(*size))
    config = TileConfig(
        tile_size=tile,
        patch_size=patch,
        tile_tokens=1,
        plan="split",
        max_tiles=UNLIMITED if splits else 1,
        longest_edge=edge,
        resample="lanczos",
    )
    image = cut_tiles(picture(*size), config, UNLIMITED)
    expected, seen = np.array(theirs["pixel_values"])[0], tile // patch * patch
    np.testing.assert_array_equal(tiles(image, tile)[:, :, :seen, :seen], expected[:, :, :seen, :seen])
    found = image.arrangement if len(expected) > 1 else (0, 0)
    assert found == (theirs["rows"][0][0], theirs["cols"][0][0])


@pytest.mark.parametrize("size", [*SIZES, (56, 28), (84, 84), (64, 64)], ids=str)
@pytest.mark.parametrize(("least", "most"), [(1, 12), (1, 6), (2, 4), (1, 1), (3, 40)])
def test_closest_pixels(size, least, most):
    numbers = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    processor = GotOcr2ImageProcessorPil(
        size={"height": 28, "width": 28}, crop_to_patches=True, min_patches=least, max_patches=most, **numbers
    )
    config = TileConfig(
        tile_size=28,
        patch_size=7,
        tile_tokens=1,
        plan="closest",
        min_tiles=least,
        max_tiles=most,
        mean=tuple(numbers["image_mean"]),
        std=tuple(numbers["image_std"]),
    )
    image = cut_tiles(picture(*size), config, UNLIMITED)
    expected = processor(picture(*size), return_tensors="np", input_data_format="channels_last")["pixel_values"]
    np.testing.assert_array_equal(tiles(image, 28), expected)


@pytest.mark.parametrize(("tile", "edge", "tokens"), [(512, 2048, 64), (384, 1536, 81), (364, 1456, 169)])
def test_tiles_of_pages(tile, edge, tokens):
    """As many as transformers says, for every shape of page."""
    processor = Idefics3ImageProcessorPil(size={"longest_edge": edge}, max_image_size={"longest_edge": tile})
    config = TileConfig(
        tile_size=tile,
        patch_size=tile,
        tile_tokens=tokens,
        plan="split",
        max_tiles=UNLIMITED,
        longest_edge=edge,
        resample="lanczos",
    )
    for width, height in [(248, 350), (350, 248), (170, 220), (100, 30), (40, 300), (200, 200), (160, 90)]:
        image = cut_tiles(picture(width, height), config)
        count, rows, columns = processor.get_number_of_image_patches(height, width)
        assert (image.grid[0], image.arrangement) == (count, (rows, columns))


def tokenizer_of(folder):
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), padding_side="left")


def rendered(lmm, messages):
    return lmm.template.render(messages, add_generation_prompt=True)


def pictures(messages):
    parts = [p for m in messages if not isinstance(m["content"], str) for p in m["content"]]
    return [p["image"] for p in parts if p["type"] == "image"]


EXTRA = {"tiny": [ask("Read.", picture(7, 5))], "narrow": [ask("Read.", picture(9, 200), picture(32, 32))]}


@pytest.fixture(params=["plain", "special", "not special"])
def smol(request, tmp_path):
    """The tiny Idefics3 with rows and columns as text, as control tokens, or as other added tokens."""
    case = CASES["idefics3"] if request.param == "plain" else CASES["smolvlm"]
    folder = write_checkpoint(case, tmp_path / "hf")
    if request.param == "not special":
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        for token in tokenizer["added_tokens"]:
            token["special"] = token["special"] and "row" not in token["content"] and "global" not in token["content"]
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return rave_mlx.load(folder), tokenizer_of(folder)


@pytest.mark.parametrize("name", [*(n for n in CONVERSATIONS if n != "text"), *EXTRA])
def test_idefics3_prompts(smol, name):
    lmm, tokenizer = smol
    image, messages = lmm.config.image, CONVERSATIONS.get(name) or EXTRA[name]
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(
            size={"longest_edge": image.longest_edge},
            max_image_size={"longest_edge": image.tile_size},
            image_mean=image.mean,
            image_std=image.std,
        ),
        tokenizer,
        image_seq_len=image.tile_tokens,
    )
    theirs = processor(text=rendered(lmm, messages), images=pictures(messages), return_tensors="np")
    prompt = lmm.prepare(messages)
    np.testing.assert_array_equal(prompt.ids, theirs["input_ids"])
    seen = image.tile_size // image.patch_size * image.patch_size
    ours = np.concatenate([tiles(i, image.tile_size) for i in prompt.images])
    np.testing.assert_array_equal(ours[..., :seen, :seen], theirs["pixel_values"][0][..., :seen, :seen])


class StillImages(InternVLProcessor):
    """Without a processor for videos, which needs torchvision."""

    def check_argument_for_proper_class(self, argument_name, argument):
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        return None


@pytest.mark.parametrize("name", [*(n for n in CONVERSATIONS if n != "text"), *EXTRA])
def test_internvl_prompts(tmp_path, name):
    case, messages = CASES["internvl"], CONVERSATIONS.get(name) or EXTRA[name]
    folder = write_checkpoint(case, tmp_path / "hf")
    lmm, tokenizer = rave_mlx.load(folder), tokenizer_of(folder)
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    for key, token in (named | {"video_token": "<video>"}).items():
        setattr(tokenizer, key, token)
        setattr(tokenizer, f"{key}_id", tokenizer.convert_tokens_to_ids(token))
    images = GotOcr2ImageProcessorPil(**case.processor)
    processor = StillImages(images, tokenizer, None, image_seq_length=lmm.config.image.tile_tokens)
    theirs = processor(text=rendered(lmm, messages), images=pictures(messages), return_tensors="np")
    prompt = lmm.prepare(messages)
    np.testing.assert_array_equal(prompt.ids, theirs["input_ids"])
    np.testing.assert_array_equal(np.concatenate([tiles(i, 28) for i in prompt.images]), theirs["pixel_values"])


@pytest.mark.parametrize("side", [4, 6, 16, 26, 27, 32, 60, 70])
def test_positions_stand_in_order(side):
    config = transformers.Idefics3VisionConfig(hidden_size=1, num_attention_heads=1, image_size=side, patch_size=1)
    embeddings = Idefics3VisionEmbeddings(config)
    with torch.no_grad():
        embeddings.patch_embedding.weight.zero_()
        embeddings.patch_embedding.bias.zero_()
        embeddings.position_embedding.weight.copy_(torch.arange(side * side, dtype=torch.float32)[:, None])
        found = embeddings(torch.zeros(1, 3, side, side), torch.ones(1, side, side, dtype=torch.bool))
    np.testing.assert_array_equal(found[0, :, 0].numpy(), np.arange(side * side))


def test_a_head_of_its_own_counts_where_the_configuration_ties_it(tmp_path):
    tied = CASES["internvl"].config | {"tie_word_embeddings": True}
    case = replace(CASES["internvl"], config=tied)
    folder = write_checkpoint(case, tmp_path / "hf")
    model = transformers.InternVLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    prompt = rave_mlx.load(folder).prepare(CONVERSATIONS["text"])
    with torch.no_grad():
        expected = model(input_ids=torch.from_numpy(prompt.ids.astype(np.int64))).logits.numpy()
    assert relative(rave_mlx.load(folder).logits(prompt), expected) <= 1e-5
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert relative(rave_mlx.load(folder).logits(prompt), expected) > 0.1
