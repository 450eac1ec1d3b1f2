"""Messages as programs for OpenAI's interfaces, transformers, Qwen and others write them."""

import base64
import io
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from support import IMAGE

from rave_mlx.config import TileConfig
from rave_mlx.errors import ImageError, PromptError
from rave_mlx.inputs.images.preprocess import cut_patches
from rave_mlx.inputs.prompt.message import ImagePart, TextPart
from rave_mlx.inputs.prompt.parse_messages import read_image, read_messages

LEVELS = (np.arange(32 * 48 * 3) * 5 % 256).astype(np.uint8).reshape(32, 48, 3)
TILES = TileConfig(tile_size=32, patch_size=8, tile_tokens=16, plan="closest", max_tiles=6)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("forms") / "a page.png"
    Image.fromarray(LEVELS).save(path)
    return path


def parts(*content, config=IMAGE, **options):
    (message,) = read_messages([{"role": "user", "content": list(content)}], config, **options)
    return message.parts


def error(*content, config=IMAGE, **options):
    with pytest.raises((PromptError, ImageError)) as caught:
        parts(*content, config=config, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def forms(file):
    """The same image in every form."""
    data = file.read_bytes()
    text = base64.b64encode(data).decode()
    url, data_url = file.as_uri(), f"data:image/png;base64,{text}"
    return {
        "ours": {"type": "image", "image": str(file)},
        "ours, page": {"type": "image", "image": str(file), "page": 1},
        "pathlib": {"type": "image", "image": file},
        "bytes": {"type": "image", "image": data},
        "bytearray": {"type": "image", "image": bytearray(data)},
        "memoryview": {"type": "image", "image": memoryview(data)},
        "open file": {"type": "image", "image": io.BytesIO(data)},
        "Pillow": {"type": "image", "image": Image.fromarray(LEVELS)},
        "NumPy": {"type": "image", "image": LEVELS},
        "MLX": {"type": "image", "image": mx.array(LEVELS)},
        "file URL": {"type": "image", "image": url},
        "data URL": {"type": "image", "image": data_url},
        "bare base64": {"type": "image", "image": text},
        "OpenAI": {"type": "image_url", "image_url": {"url": data_url, "detail": "high"}},
        "OpenAI, path": {"type": "image_url", "image_url": {"url": str(file)}},
        "OpenAI, string": {"type": "image_url", "image_url": data_url},
        "OpenAI, file URL": {"type": "image_url", "image_url": url},
        "OpenAI Responses": {"type": "input_image", "image_url": data_url, "detail": "auto"},
        "OpenAI Responses, object": {"type": "input_image", "image_url": {"url": data_url}},
        "transformers, url": {"type": "image", "url": url},
        "transformers, path": {"type": "image", "path": str(file)},
        "transformers, base64": {"type": "image", "base64": text},
        "transformers, lines of base64": {"type": "image", "base64": base64.encodebytes(data).decode()},
        "data": {"type": "image", "data": text, "mimeType": "image/png"},
        "data, URL": {"type": "image", "data": data_url},
        "data, bytes": {"type": "image", "data": data},
        "Anthropic": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": text}},
        "Anthropic, url": {"type": "image", "source": {"type": "url", "url": url}},
        "Qwen": {"image": str(file)},
        "Qwen, typed": {"type": "image", "image_url": url},
        "a table's row": {"type": "image", "text": None, "image": str(file), "url": None, "min_pixels": None},
        "datasets": {"type": "image", "image": {"bytes": data, "path": "elsewhere.png"}},
        "datasets, path": {"type": "image", "image": {"bytes": None, "path": str(file)}},
        "harmless keys": {"type": "image", "image": str(file), "cache_control": {"type": "ephemeral"}, "uuid": "7"},
    }


@pytest.mark.parametrize("form", forms(Path(__file__)))
@pytest.mark.parametrize("originals", [False, True])
def test_every_form_gives_the_same_patches(file, form, originals):
    expected = cut_patches(Image.fromarray(LEVELS), IMAGE)
    image, text = parts(forms(file)[form], {"type": "text", "text": "Total?"}, originals=originals)
    assert text == TextPart("Total?")
    assert image.patches.digest == expected.digest
    np.testing.assert_array_equal(image.patches.pixels, expected.pixels)
    if originals:
        np.testing.assert_array_equal(np.asarray(image.original.picture), LEVELS)


def test_forms_of_text():
    for part in (
        {"type": "text", "text": "Hi"},
        {"type": "input_text", "text": "Hi"},
        {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []},
        {"text": "Hi"},
        {"type": "text", "text": "Hi", "image": None, "cache_control": {"type": "ephemeral"}},
    ):
        assert parts(part) == (TextPart("Hi"),)


def test_pages_of_a_file_url(tmp_path):
    pages = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime")]
    path = tmp_path / "two pages.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    second = cut_patches(pages[1], IMAGE).digest
    for part in (
        {"type": "image", "image": str(path), "page": 2},
        {"type": "image", "image": f"{path}#page=2"},
        {"type": "image_url", "image_url": {"url": f"{path.as_uri()}#page=2"}},
        {"type": "image", "url": f"{path.as_uri()}#page=2", "page": 2},
    ):
        assert parts(part)[0].patches.digest == second
    assert '"page" is 1, and the address says page 2' in error({"type": "image", "image": f"{path}#page=2", "page": 1})


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("What?", "expected {"),
        (["type", "text"], "expected {"),
        ({}, "expected {"),
        ({"type": "text"}, "expected {"),
        ({"type": "text", "text": 3}, "expected {"),
        ({"type": "text", "content": "Hi"}, "expected {"),
        ({"type": "text", "text": "Hi", "image": "a.png"}, "a part of text has no 'image' here"),
        ({"type": "image"}, "an image without a source"),
        ({"type": "image", "image": None}, "an image without a source"),
        ({"type": "image_url", "image_url": {}}, '"image_url" names no image'),
        ({"type": "image_url", "image_url": {"uri": "a.png"}}, '"image_url" names no image'),
        ({"type": "image", "image": "a.png", "url": "b.png"}, 'an image has one source, found "image" and "url"'),
        ({"image": "a.png", "text": "Hi"}, "an image has no 'text' here"),
        ({"type": "image", "image": "a.png", "crop": [0, 0, 9, 9]}, "an image has no 'crop' here"),
        ({"type": "image_url", "image_url": {"url": "a.png", "rotate": 90}}, "an image has no 'rotate' here"),
        ({"type": "input_image", "file_id": "file-7"}, "an image without a source"),
        ({"type": "image", "image": "a.png", "page": "2"}, "a page is a whole number"),
        ({"type": "image", "image": "a.png", "page": 0}, "a page is a whole number"),
        ({"type": "image", "image": "a.png", "page": True}, "a page is a whole number"),
        ({"type": "image", "image": "a.png", "detail": "medium"}, "\"detail\" is 'medium'; use"),
        ({"type": "image", "image": "a.png", "min_pixels": "9"}, "\"min_pixels\" is '9'; it is a number of pixels"),
        ({"type": "image", "image": "a.png", "max_pixels": 0}, '"max_pixels" is 0'),
        ({"type": "image", "image": "a.png", "max_pixels": 1.5}, '"max_pixels" is 1.5'),
        ({"type": "image", "image": "a.png", "max_pixels": 10**12}, '"max_pixels" is 1000000000000'),
        ({"type": "image", "image": "a.png", "min_pixels": 9, "max_pixels": 8}, '"min_pixels" 9 is more than'),
        ({"type": "image", "image": "a.png", "resized_width": 9}, "go together"),
        ({"type": "image_url", "image_url": "https://x.org/a.png"}, "addresses are not fetched; download the image"),
        ({"type": "image", "url": "http://x.org/a.png"}, "addresses are not fetched; download the image"),
        ({"type": "image", "base64": "no base64!"}, '"base64" is not valid base64'),
        ({"type": "image", "image": b"rubbish\x01"}, "message 1, part 1: image data of 8 bytes: this is no known"),
        ({"type": "image", "image": 3}, "message 1, part 1: int object: an image is a path"),
        ({"type": "image", "image": np.zeros((3, 9, 3), np.uint8)}, "may come first or last"),
        ({"type": "video", "video": "a.mp4"}, "parts of type 'video' are not read; pass some of its frames"),
        ({"type": "video_url", "video_url": {"url": "a.mp4"}}, "parts of type 'video_url' are not read"),
        ({"type": "input_audio", "input_audio": {}}, "parts of type 'input_audio' are not read"),
        ({"type": "input_file", "file_data": "x"}, "parts of type 'input_file' are not read; pass it as"),
        ({"type": "tool_result", "content": "x"}, "unknown type 'tool_result'"),
        ({"type": 7}, "unknown type 7"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(part, words):
    message = error(part)
    assert words in message
    assert "message 1, part 1" in message or message.startswith("http")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("What?", 'messages must be a list like [{"role": "user", "content": "..."}], found str'),
        (b"What?", "found bytes"),
        ({"role": "user", "content": "What?"}, "messages must be a list like"),
        (iter([]), "messages must be a list like"),
        (None, "messages must be a list like"),
        ([], "ask something"),
        (["What?"], 'message 1: expected an object with "role" and "content", found str'),
        ([("user", "What?")], 'message 1: expected an object with "role" and "content", found tuple'),
        ([{"content": "What?"}], '"role" is missing'),
        ([{"role": "user"}], '"content" is missing'),
        ([{"role": None, "content": "What?"}], "the role is None"),
        ([{"role": ["user"], "content": "What?"}], "the role is ['user']"),
        ([{"role": "user", "content": None}], "content must be text or a list of parts, found nothing"),
        ([{"role": "user", "content": b"What?"}], "found bytes"),
        ([{"role": "user", "content": {"type": "text", "text": "Hi"}}], "found dict"),
        ([{"role": "user", "content": Image.new("L", (4, 4))}], "found Image"),
        ([{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}], "tool calls are not supported"),
        ([{"role": "assistant", "tool_calls": [{"id": "1"}]}], "tool calls are not supported"),
        ([{"role": "user", "content": "What?", "images": ["a.png"]}], "put each image into the content"),
        ([{"role": "user", "content": "What?", "reasoning_content": "Hm"}], "'reasoning_content' is not known here"),
    ],
)
def test_malformed_messages(messages, words):
    with pytest.raises(PromptError) as caught:
        read_messages(messages, IMAGE)
    assert words in str(caught.value)


def test_empty_and_harmless_keys_of_messages():
    message = {
        "role": "user",
        "content": "Hi",
        "name": "Ann",
        "tool_calls": None,
        "images": [],
        "refusal": None,
        "id": "7",
    }
    (read,) = read_messages((message,), IMAGE)
    assert (read.role, read.parts, read.plain) == ("user", (TextPart("Hi"),), True)


# ------------------------------------------------------------------------------------------------------ sizes


def size(part, image=(480, 320), config=IMAGE, **options):
    """(width, height) in pixels that the model reads, and the part."""
    picture = Image.fromarray(
        (np.arange(image[0] * image[1] * 3) % 253).astype(np.uint8).reshape(image[1], image[0], 3)
    )
    (read,) = parts({"type": "image", "image": picture, **part}, config=config, **options)
    assert read.patches.size == image
    _, rows, columns = read.patches.grid
    return columns * config.patch_size, rows * config.patch_size


def test_a_size_of_its_own():
    """IMAGE has cells of 8 pixels and at most 256 x 256; its default budget is 1,280 tokens, 81,920 pixels."""
    assert size({}) == (312, 208)
    assert size({"max_pixels": 10_000}) == (120, 80)
    assert size({"max_pixels": 10_000}, image=(48, 32)) == (48, 32)
    assert size({"min_pixels": 10_000}, image=(48, 32)) == (128, 88)
    assert size({"resized_width": 101, "resized_height": 50}) == (104, 48)
    # As of the model where it has less than what is asked for, and of the caller where that is named.
    assert size({"max_pixels": 10**6}) == (312, 208)
    assert size({"max_pixels": 10_000}, image_tokens=20) == (40, 24)
    assert size({"resized_width": 160, "resized_height": 160}, image_tokens=100) == (80, 80)


def test_low_detail():
    wide = IMAGE.__class__(patch_size=14, min_pixels=3136, max_pixels=12_845_056)
    assert size({"detail": "low"}, image=(2000, 1000), config=wide) == (700, 336)
    assert size({"detail": "low"}, image=(140, 280), config=wide) == (140, 280)
    assert size({"detail": "low"}, image=(2000, 1000), config=wide, image_tokens=10) == (112, 56)
    for detail in ("high", "auto", "original"):
        assert size({"detail": detail}) == size({})
    picture = Image.fromarray(LEVELS).resize((96, 64))
    tiled = parts({"type": "image", "image": picture}, config=TILES)[0].patches
    coarse = parts({"type": "image", "image": picture, "detail": "low"}, config=TILES)[0].patches
    assert (tiled.tokens, coarse.tokens) == (7 * 16, 16)
    assert coarse.arrangement == (1, 1)


def test_sizes_in_pixels_are_for_models_that_have_them(file):
    message = error({"type": "image", "image": str(file), "max_pixels": 9999}, config=TILES)
    assert "min_pixels, max_pixels, resized_height and resized_width are for models" in message


def test_originals_keep_the_number_of_tokens_that_was_asked_for(file):
    (read,) = parts({"type": "image", "image": str(file), "max_pixels": 640}, originals=True)
    assert read.original.image_tokens == read.patches.tokens == 6
    (plain,) = parts({"type": "image", "image": str(file)}, originals=True)
    assert plain.original.image_tokens is None


def test_an_open_file_that_cannot_be_rewound_is_read_once(file):
    class Stream:
        def __init__(self):
            self.left = file.read_bytes()

        def read(self, size=-1):
            data, self.left = self.left, b""
            return data

    part = read_image(Stream(), IMAGE, original=True)
    assert isinstance(part, ImagePart)
    np.testing.assert_array_equal(np.asarray(part.original.picture), LEVELS)


def test_a_text_model_takes_no_images(file):
    assert "this model reads text only" in error({"type": "image", "image": str(file)}, config=None)
