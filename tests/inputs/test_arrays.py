"""Arrays as images: read where it is certain how they are meant, refused where it is not."""

import mlx.core as mx
import numpy as np
import pytest

from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.decode import open_image

LEVELS = (np.arange(40 * 30 * 3) % 251).astype(np.uint8).reshape(40, 30, 3)
"""40 high, 30 wide."""


def shown(array):
    return np.asarray(open_image(array))


def refusal(array):
    with pytest.raises(ImageError) as caught:
        open_image(array)
    assert "; " in str(caught.value)
    return str(caught.value)


FORMS = {
    "uint8": LEVELS,
    "channels first": LEVELS.transpose(2, 0, 1),
    "light": LEVELS.astype(np.float32) / 255,
    "light, double": LEVELS / 255,
    "light, half": (LEVELS / 255).astype(np.float16),
    "whole numbers": LEVELS.astype(np.int64),
    "whole numbers as floating point": LEVELS.astype(np.float32),
    "not contiguous": np.repeat(LEVELS, 2, axis=1)[:, ::2],
    "mlx": mx.array(LEVELS),
    "mlx, light": mx.array(LEVELS.astype(np.float32) / 255),
    "mlx, channels first": mx.array(LEVELS.transpose(2, 0, 1)),
    "opaque": np.dstack([LEVELS, np.full((40, 30), 255, np.uint8)]),
    "opaque, channels first": np.dstack([LEVELS, np.full((40, 30), 255, np.uint8)]).transpose(2, 0, 1),
    "memoryview": memoryview(np.ascontiguousarray(LEVELS)),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_picture_in_every_form(form):
    np.testing.assert_array_equal(shown(FORMS[form]), LEVELS)


@pytest.mark.parametrize("shape", [(40, 30), (40, 30, 1), (1, 40, 30)])
def test_grey(shape):
    grey = LEVELS[..., 0].copy()
    np.testing.assert_array_equal(shown(grey.reshape(shape)), np.repeat(grey[..., None], 3, axis=2))


def test_transparency_goes_on_white():
    pixels = np.zeros((6, 5, 4), np.uint8)
    pixels[:3, :, 3] = 255
    np.testing.assert_array_equal(shown(pixels)[..., 0], np.repeat([[0], [255]], 3, axis=0).repeat(5, axis=1))


def test_black_and_white():
    mask = np.zeros((6, 5), bool)
    mask[2] = True
    np.testing.assert_array_equal(shown(mask)[..., 0], np.where(mask, 255, 0))


def test_brain_floating_point():
    eighths = np.tile(np.arange(9, dtype=np.float32) / 8, (5, 1))
    expected = np.rint(eighths * 255)
    np.testing.assert_array_equal(shown(mx.array(eighths).astype(mx.bfloat16))[..., 0], expected)


def test_torch():
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(shown(torch.from_numpy(LEVELS)), LEVELS)
    light = torch.from_numpy(LEVELS.astype(np.float32) / 255).permute(2, 0, 1).requires_grad_()
    np.testing.assert_array_equal(shown(light), LEVELS)
    assert shown(torch.ones(4, 5, dtype=torch.bfloat16)).min() == 255


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 5, 3), np.uint8), "may come first or last"),
        (np.zeros((1, 5, 3), np.uint8), "may come first or last"),
        (np.zeros((2, 3, 40, 30), np.uint8), "one image has"),
        (np.zeros(5, np.uint8), "one image has"),
        (np.zeros((5, 6, 2), np.uint8), "1, 3 (RGB) or 4 (RGBA) channels"),
        (np.zeros((0, 5), np.uint8), "without pixels"),
        (np.full((4, 5), 0.5) * 255, "which value is white is not certain"),
        (np.full((4, 5), -0.5), "which value is white is not certain"),
        (np.eye(5, dtype=np.int64), "which value is white is not certain"),
        (np.full((4, 5), 256), "which value is white is not certain"),
        (np.full((4, 5), 9, np.uint16), "which value is white is not certain"),
        (np.full((4, 5), 2.5), "which value is white is not certain"),
        (np.full((4, 5), np.nan), "not finite"),
        (np.full((4, 5), 1j), "an image has numbers"),
        (np.full((4, 5), "a"), "an image has numbers"),
        (np.full((4, 5), None, object), "an image has numbers"),
    ],
)
def test_what_is_not_certain_is_refused(array, words):
    assert words in refusal(array)


def test_the_array_is_not_changed():
    array = LEVELS.copy()
    open_image(array).putpixel((0, 0), (9, 9, 9))
    np.testing.assert_array_equal(array, LEVELS)
