"""Boxes that models write, in the forms of their model cards and papers."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest

import rave_mlx
from rave_mlx.documents.boxes import box_units, find_boxes
from rave_mlx.synthetic import make

QWEN = """```json
[
  {"bbox_2d": [84, 168, 420, 252], "label": "title", "text_content": "Invoice \\"No\\" 7"},
  {"bbox_2d": [0, 0, 840, 1260]}
]
```"""


def test_qwen2_5_counts_pixels_of_the_resized_image():
    """Sides are rounded to multiples of a visual token's."""
    lmm = rave_mlx.load()
    assert lmm.config.family == "qwen2_5_vl"
    page = make(3).image.resize((300, 200))
    content = [{"type": "image", "image": page}, {"type": "text", "text": "?"}]
    prompt = lmm.prepare([{"role": "user", "content": content}])
    (image,) = prompt.images
    assert lmm.config.image.cell == 16
    assert box_units(lmm.config, image) == (304, 192)


def test_boxes_of_json_with_their_text():
    first, second = find_boxes(QWEN, (840.0, 1260.0))
    assert first.box == pytest.approx((0.1, 168 / 1260, 0.5, 0.2))
    assert first.text == 'Invoice "No" 7'
    assert QWEN[first.start : first.stop] == '"bbox_2d": [84, 168, 420, 252]'
    assert second.box == (0.0, 0.0, 1.0, 1.0)
    assert second.text == ""


def test_qwen3_counts_thousandths():
    (found,) = find_boxes('{"bbox_2d": [100, 250, 500, 1000], "label": "total"}')
    assert found.box == (0.1, 0.25, 0.5, 1.0)
    assert found.text == "total"


def test_boxes_of_control_tokens():
    doctags = "<doctag><text><loc_50><loc_100><loc_250><loc_500>Due 3 May</text>"
    qwen2 = "<|object_ref_start|>the stamp<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>"
    intern = "<ref>the stamp</ref><box>[[100, 200, 300, 400]]</box>"
    assert [(b.box, b.text) for b in find_boxes(doctags)] == [((0.1, 0.2, 0.5, 1.0), "Due 3 May")]
    assert [(b.box, b.text) for b in find_boxes(qwen2)] == [((0.1, 0.2, 0.3, 0.4), "the stamp")]
    assert [(b.box, b.text) for b in find_boxes(intern)] == [((0.1, 0.2, 0.3, 0.4), "the stamp")]


def test_what_is_no_box_is_left_out():
    assert find_boxes("no box, [1, 2, 3, 4], bbox_2d") == []
    assert find_boxes('{"bbox_2d": [5, 5, 5, 9]}') == []
    assert find_boxes('{"bbox_2d": [5, 5, 9]}') == []
    (cut,) = find_boxes('[{"bbox_2d": [0, 0, 500, 500], "label": "cut off he')
    assert cut.box == (0, 0, 0.5, 0.5)
    (outside,) = find_boxes('{"bbox_2d": [-20, 100, 2000, 300]}')
    assert outside.box == (0.0, 0.1, 1.0, 0.3)


def test_every_box_of_valid_json_comes_back():
    rng = Random(3)
    marks = 'aé"\\\n:,[]0 '
    for _ in range(60):
        rows = [([rng.randint(0, 1000) for _ in range(4)], "".join(rng.choices(marks, k=9))) for _ in range(4)]
        answer = json.dumps([{"bbox_2d": box, "label": text} for box, text in rows])
        wanted = [(box, text) for box, text in rows if box[0] < box[2] and box[1] < box[3]]
        found = find_boxes(answer)
        assert [b.text for b in found] == [text for _, text in wanted]
        assert np.allclose([b.box for b in found], [np.array(box) / 1000 for box, _ in wanted])
