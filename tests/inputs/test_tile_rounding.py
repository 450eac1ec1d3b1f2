"""Sizes at which a wrong rounding, a swapped axis or a tie decided otherwise shows.

The numbers are what functions of transformers 5.24 return; each table names its function.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from rave_mlx.config import ImageConfig, TileConfig
from rave_mlx.inputs.images.patches import Region
from rave_mlx.inputs.images.preprocess import fit_size
from rave_mlx.inputs.images.tiling.closest_grid import arrange as arrange_closest
from rave_mlx.inputs.images.tiling.pinpoint_grid import best_size, fit_inside, pinpoints
from rave_mlx.inputs.images.tiling.split_grid import arrange as arrange_split
from rave_mlx.inputs.images.tiling.split_grid import scaled
from rave_mlx.inputs.images.tiling.unpad import unpad, visual_tokens

NEXT_SIZES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
NEXT = TileConfig(tile_size=336, patch_size=14, tile_tokens=576, plan="pinpoints", pinpoints=NEXT_SIZES)
ONEVISION = TileConfig(
    tile_size=384, patch_size=14, tile_tokens=729, plan="pinpoints", pinpoints=((384, 384),), max_features=9
)


# modeling_llava_next.unpad_image: (top, left, height, width) of what it leaves of 24 (27) patches a tile and side.
@pytest.mark.parametrize(
    ("config", "arrangement", "size", "left"),
    [
        (NEXT, (1, 2), (1659, 1243), (0, 8, 24, 32)),  # 32.03 columns: 33 would leave 34
        (NEXT, (1, 2), (1353, 1934), (0, 16, 24, 16)),  # 16.79 columns: 17 would leave 18
        (NEXT, (1, 2), (2293, 413), (8, 0, 8, 48)),  # 8.65 rows: 9 would leave 10
        (NEXT, (1, 2), (1365, 1000), (0, 8, 24, 32)),  # 32.76 columns
        (NEXT, (1, 2), (2352, 147), (10, 0, 4, 48)),  # 3.0 rows, which is a hair less in float64
        (NEXT, (3, 1), (47, 1128), (0, 10, 72, 4)),  # 3.0 columns, a hair less
        (NEXT, (3, 1), (2472, 103), (35, 0, 2, 24)),  # 1.0 rows, a hair less
        (ONEVISION, (1, 2), (446, 132), (6, 0, 15, 54)),  # 15.98 rows: 16 would leave 17
        (ONEVISION, (1, 2), (930, 164), (9, 0, 9, 54)),  # 9.52 rows
        (ONEVISION, (1, 2), (2294, 987), (2, 0, 23, 54)),  # 23.23 rows: 24 would leave 25
        (ONEVISION, (1, 2), (1445, 1445), (0, 13, 27, 28)),  # 27.0 columns, a hair less
        (ONEVISION, (2, 1), (1390, 1390), (13, 0, 28, 27)),  # 27.0 rows, a hair less
    ],
)
def test_what_is_left_without_padding(config, arrangement, size, left):
    top, start, height, width = left
    assert unpad(arrangement, config, size) == Region(top, start, height, width, height, width)


# LlavaOnevisionProcessor._get_unpadded_features with "anyres_max_9": (features, newlines).
@pytest.mark.parametrize(
    ("arrangement", "size", "features", "newlines"),
    [
        ((6, 6), (1584, 404), 6804, 42),  # sqrt(42 * 162 / 6561) = 1.018: within the tolerance
        ((3, 6), (202, 167), 7938, 81),  # 1.09994
        ((4, 5), (1450, 2152), 7884, 108),  # 1.0962
        ((5, 5), (2726, 1177), 6466, 53),  # 1.1018: 59 x 135 becomes 53.55 x 122.5, both cut
        ((4, 4), (681, 463), 6499, 67),  # 1.1037: 74 x 108 becomes 67.05 x 97.86
        ((5, 6), (459, 811), 6420, 107),  # 1.2505: 107.96 x 60.78
        ((5, 5), (1662, 2700), 6489, 103),  # 1.3068: 103.3 x 63.5
        ((5, 4), (964, 2195), 6413, 121),  # 1.1111: 121.5 x 53.1
    ],
)
def test_how_many_features_are_left_after_scaling(arrangement, size, features, newlines):
    region = unpad(arrangement, ONEVISION, size)
    assert (region.rows * region.columns, region.rows) == (features, newlines)
    assert visual_tokens(ONEVISION, region) == 729 + features + newlines


def test_a_scaled_region_lies_where_the_image_does():
    """The part that `unpad_image` cuts out, and the size that `pack_image_features` scales it to."""
    assert unpad((5, 5), ONEVISION, (2726, 1177)) == Region(38, 0, 59, 135, 53, 122)
    assert unpad((5, 6), ONEVISION, (459, 811)) == Region(0, 43, 135, 76, 107, 60)


# image_processing_utils.select_best_resolution, for the sizes in three orders.
@pytest.mark.parametrize(
    ("size", "best"),
    [
        ((336, 336), ((336, 672), (672, 336), (336, 672))),  # a square fits both equally: the first one
        ((300, 300), ((336, 672), (672, 336), (336, 672))),
        ((132, 327), ((336, 672), (672, 336), (336, 672))),  # nothing is lost in three: the smallest, the first of two
        ((255, 130), ((336, 672), (672, 336), (336, 672))),
        ((309, 475), ((672, 336), (672, 336), (672, 336))),  # of several without a loss, that with the least around it
        ((617, 64), ((336, 672), (336, 672), (336, 672))),
        ((1259, 1), ((336, 672), (672, 336), (336, 672))),  # a height of 0.5 counts 0, one of 0.8 as well
        ((1, 1028), ((336, 672), (672, 336), (336, 672))),
        ((750, 1499), ((672, 672), (672, 672), (672, 672))),  # in (672, 336) 671.6 rows count 671: one fewer
        ((1401, 701), ((672, 672), (672, 672), (672, 672))),
        ((672, 672), ((672, 672), (672, 672), (672, 672))),
    ],
)
def test_ties_between_the_sizes(size, best):
    orders = (NEXT_SIZES, NEXT_SIZES[::-1], tuple(NEXT_SIZES[i] for i in (2, 0, 1, 4, 3)))
    assert tuple(best_size(size, order) for order in orders) == best


# image_transforms.get_patch_output_size: (width, height), the shorter side rounded up.
FITTED = [
    ((759, 1155), (672, 336), (336, 512)),  # 511.3
    ((1412, 478), (336, 672), (672, 228)),  # 227.49
    ((146, 813), (336, 1008), (61, 336)),  # 60.3
    ((480, 755), (1008, 336), (336, 529)),  # 528.5
    ((896, 210), (672, 672), (672, 158)),  # 157.5
    ((1455, 1120), (336, 672), (437, 336)),  # 436.5
    ((116, 768), (672, 672), (102, 672)),  # 101.5
    ((300, 50), (336 * 3, 336), (336, 57)),  # 56, a hair more in float64
    ((608, 304), (672, 672), (672, 337)),  # 336, a hair more
    ((46, 368), (1008, 336), (127, 1008)),  # 126, a hair more
]


@pytest.mark.parametrize(("size", "choice", "fitted"), FITTED)
def test_the_shorter_side_is_rounded_up(size, choice, fitted):
    assert fit_inside(size, choice) == fitted


@pytest.mark.parametrize(("size", "choice", "fitted"), FITTED)
def test_of_an_odd_padding_the_smaller_half_comes_first(size, choice, fitted):
    """LlavaNextImageProcessor._get_padding_size: half of what is missing, rounded down, above and on the left."""
    config = TileConfig(tile_size=336, patch_size=14, tile_tokens=576, plan="pinpoints", pinpoints=(choice,))
    tiling = pinpoints(Image.new("RGB", size, "white"), config, 100_000)
    assert (tiling.rows, tiling.columns) == (choice[0] // 336, choice[1] // 336)
    shown = tiling.levels[1:].reshape(tiling.rows, tiling.columns, 336, 336, 3).swapaxes(1, 2).reshape(*choice, 3)
    rows, columns = (np.flatnonzero(shown[..., 0].any(axis=axis)) for axis in (1, 0))
    assert (columns.size, rows.size) == fitted
    assert rows[0] == (choice[0] - fitted[1]) // 2 and columns[0] == (choice[1] - fitted[0]) // 2


def test_the_tile_that_stands_alone_is_an_arrangement_of_one():
    tiling = pinpoints(Image.new("RGB", (700, 500)), NEXT, 577)
    assert (tiling.rows, tiling.columns, len(tiling.levels), tiling.region) == (1, 1, 1, None)
    assert not tiling.overview


# image_processing_idefics3._resize_output_size_rescale_to_max_len: (width, height), cut and then made even.
@pytest.mark.parametrize(
    ("size", "edge", "expected"),
    [
        ((1001, 700), 95, (95, 66)),  # 66.4
        ((1001, 700), 1023, (1023, 716)),  # 715.4 is cut to 715, and made even
        ((700, 1001), 1023, (716, 1023)),
        ((333, 77), 95, (95, 22)),  # 21.97
        ((333, 77), 1456, (1456, 336)),  # 336.7
        ((77, 333), 1456, (336, 1456)),
        ((1000, 501), 95, (95, 48)),  # 47.6
        ((501, 1000), 95, (48, 95)),
        ((1000, 501), 1456, (1456, 730)),  # 729.5
        ((3, 2), 1456, (1456, 970)),  # 970.7
        ((2, 3), 95, (64, 95)),  # 63.3
        # ... and then _resize_output_size_scale_below_upper_bound: 4096 at most, cut and left odd.
        ((1001, 700), 5000, (4096, 2863)),  # 5000 x 3496; 2863.9
        ((700, 1001), 5000, (2863, 4096)),
        ((1000, 501), 5000, (4096, 2052)),  # 5000 x 2506; 2052.9
        ((1, 5000), 5000, (1, 4096)),
    ],
)
def test_sides_are_cut_and_made_even(size, edge, expected):
    assert scaled(size, edge) == expected


# Idefics3ImageProcessor.resize_for_vision_encoder with tiles of 364: (rows, columns) of tiles, the stretched side cut.
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1206, 905), (3, 4)),  # 1092.6 rows are three tiles of 364, and rounded they were four
        ((1111, 834), (3, 4)),
        ((887, 1182), (4, 3)),
        ((894, 1191), (4, 3)),
        ((282, 1125), (4, 1)),  # 364.9
        ((838, 280), (1, 3)),
    ],
)
def test_a_stretched_side_is_cut_before_tiles_are_counted(size, expected):
    assert arrange_split(size, 364) == expected


# image_processing_got_ocr2.get_optimal_tiled_canvas, which returns (columns, rows); here (rows, columns).
@pytest.mark.parametrize(
    ("size", "tiles", "expected"),
    [
        ((84, 56), (1, 2), (1, 1)),  # 1.5 is as far from 1 as from 2, and 84 x 56 is less than half of two tiles
        ((750, 500), (1, 2), (1, 2)),  # 375,000 pixels are more than half of two tiles, 200,704
        ((2, 3), (1, 2), (2, 1)),  # 0.667 is closer to 1/2 than to 1
        ((1200, 800), (2, 5), (2, 2)),
        ((750, 500), (2, 5), (1, 2)),  # 375,000 pixels are less than half of four tiles, 401,408
        ((633, 634), (2, 5), (2, 2)),
        ((5, 3), (1, 12), (2, 3)),
        ((5, 3), (2, 5), (1, 2)),
    ],
)
def test_ties_between_arrangements(size, tiles, expected):
    assert arrange_closest(*size, 448, *tiles) == expected


# image_processing_qwen2_vl.smart_resize with a factor of 28: halves go to the even number, as Python rounds.
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((70, 70), (56, 56)),  # 2.5
        ((42, 98), (56, 112)),  # 1.5 and 3.5
        ((98, 42), (112, 56)),
        ((126, 70), (112, 56)),  # 4.5 and 2.5
        ((154, 210), (168, 224)),  # 5.5 and 7.5
        ((182, 70), (168, 56)),  # 6.5 and 2.5
    ],
)
def test_half_a_cell_goes_to_the_even_number(size, expected):
    config = ImageConfig(patch_size=14, min_pixels=28 * 28, max_pixels=28 * 28 * 1280)
    assert config.cell == 28 and math.prod(expected) <= config.max_pixels
    assert fit_size(*size, config) == expected
