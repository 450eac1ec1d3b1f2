"""Positions and lookahead of prompts that are small enough to be written out."""

from __future__ import annotations

import numpy as np

from rave_mlx.inputs.prompt.positions import lookahead_spans, plain_positions, rotary_positions


def test_two_images_between_texts():
    """Section 2.1 of arXiv 2409.12191: each image starts where the text stopped, and its longer side counts."""
    image = np.array([-1, -1, *[0] * 6, -1, -1, *[1] * 3, -1], np.int32)
    assert rotary_positions(image, [(1, 4, 6), (1, 6, 2)], 2).tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 7, 7, 7, 10],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 8, 9, 10],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 7, 7, 10],
    ]


def test_images_that_touch_and_one_at_the_start():
    image = np.array([0, 0, 1, 1, -1], np.int32)
    assert rotary_positions(image, [(1, 1, 2), (1, 2, 1)], 1).tolist() == [
        [0, 0, 2, 2, 4],
        [0, 0, 2, 3, 4],
        [0, 1, 2, 2, 4],
    ]


def test_plain_positions_count():
    assert plain_positions(4).tolist() == [[0, 1, 2, 3]] * 3
    assert plain_positions(0).shape == (3, 0)


def test_an_image_sees_up_to_and_including_the_next_answer_token():
    """The rule of arXiv 2503.02597, for every image by itself: to the first answer token (7) behind it, or nothing."""
    ids = np.array([5, 9, 9, 5, 7, 5, 9, 5, 7, 5, 9, 7, 9, 5], np.int32)
    image = np.array([-1, 0, 0, -1, -1, -1, 1, -1, -1, -1, 2, -1, 3, -1], np.int32)
    first, end = lookahead_spans(ids, image, 7).tolist()
    assert first == [0, 3, 3, 0, 0, 0, 7, 0, 0, 0, 11, 0, 0, 0]
    assert end == [0, 5, 5, 0, 0, 0, 9, 0, 0, 0, 12, 0, 0, 0]
    assert not lookahead_spans(ids, image, None).any()
    assert lookahead_spans(ids[:1], image[:1], 7).tolist() == [[0], [0]]
