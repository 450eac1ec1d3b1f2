"""The reader on another device than the processor: no tensor of a pass stays behind.

There is no GPU here; torch's meta device refuses to mix with the processor's tensors as a GPU does.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from recipes.builtin import device, losses  # noqa: E402
from recipes.builtin.data import CHARACTERS, LINES, SLOTS  # noqa: E402
from recipes.builtin.layers import NanoConfig  # noqa: E402
from recipes.builtin.losses import cell_loss, row_loss, see  # noqa: E402
from recipes.builtin.model import Nano  # noqa: E402
from recipes.builtin.vision import make_grid  # noqa: E402


@pytest.fixture
def elsewhere():
    before = torch.get_default_device()
    torch.set_default_device("meta")
    yield
    torch.set_default_device(before)


@pytest.mark.parametrize(("height", "width"), [(64, 128), (80, 208)])
def test_a_pass_stays_on_the_device(elsewhere, monkeypatch, height, width):
    monkeypatch.setattr(losses, "is_fast", lambda: False)  # the meta device has no autocast
    model = Nano(NanoConfig(), True, SLOTS, CHARACTERS, LINES)
    rows, columns, length = height // 16, width // 16, 24
    tokens = see(model, device.put(np.zeros((2, height, width), np.uint8)))
    whole = (2, length)
    ids, place = (device.put(np.zeros(whole, np.int64)) for _ in range(2))
    segment, target = device.put(np.zeros(whole, np.int64)), device.put(np.zeros(whole, np.int64))
    found = model.decode(tokens, (rows, columns), ids, segment, place, target, (4, 5), 3)
    loss = model.logits(found.hidden).float().sum() + sum(look.sum() for look in found.looks)
    loss = loss + cell_loss(model, tokens, device.put(np.zeros((2, rows, columns, SLOTS), np.uint8)))
    loss = loss + row_loss(model, found.visual, device.put(np.zeros((2, rows * columns), np.int64)))
    loss.backward()
    assert loss.device.type == "meta"
    assert all(p.grad is not None for p in model.parameters())


def test_grids_are_kept_for_each_device(elsewhere):
    there = make_grid(80, 208, 64)
    torch.set_default_device("cpu")
    here = make_grid(80, 208, 64)
    assert (there.cos.device.type, here.cos.device.type) == ("meta", "cpu")
    assert here is make_grid(80, 208, 64)
    assert here.valid is not None and there.valid is not None
    assert here.valid.shape == there.valid.shape


def test_the_processor_is_the_default():
    assert device.is_cpu()
    assert device.put(np.arange(3)).tolist() == [0, 1, 2]
