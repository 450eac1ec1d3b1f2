"""Every model family against logits that transformers gave for the same checkpoint (see tests/families)."""

from __future__ import annotations

import json

import numpy as np
import pytest
from families import CONVERSATIONS, cases, golden, kept_positions, write_checkpoint
from support import relative

import rave_mlx
from rave_mlx.cli.main import app
from rave_mlx.convert import Options, convert

CASES = cases()


@pytest.fixture(scope="module", params=CASES)
def model(request, tmp_path_factory):
    """The case, its checkpoint and the model opened from it."""
    case = CASES[request.param]
    folder = write_checkpoint(case, tmp_path_factory.mktemp(case.name) / "hf")
    return case, folder, rave_mlx.load(folder)


def test_logits(model):
    case, _, lmm = model
    _, logits = golden(case)
    assert set(logits) == set(case.conversations)
    for name, expected in logits.items():
        prompt = lmm.prepare(CONVERSATIONS[name])
        assert relative(lmm.logits(prompt)[0, kept_positions(len(prompt))], expected) <= 1e-5, name


def test_a_rave_directory_gives_the_same_logits(model, tmp_path):
    case, folder, lmm = model
    convert(folder, tmp_path / "rave")
    converted = rave_mlx.load(tmp_path / "rave")
    prompt = lmm.prepare(CONVERSATIONS[case.conversations[-1]])
    assert (np.array(lmm.logits(prompt)) == np.array(converted.logits(prompt))).all()


def test_eight_bits_stay_close(model, tmp_path):
    case, folder, lmm = model
    convert(folder, tmp_path / "rave", quantize=Options(bits=8, group_size=32))
    quantized = rave_mlx.load(tmp_path / "rave")
    assert quantized.config.quantization is not None
    prompt = lmm.prepare(CONVERSATIONS[case.conversations[-1]])
    assert 0 < relative(quantized.logits(prompt), lmm.logits(prompt)) < 0.1


def test_the_older_configuration_and_names(model, tmp_path):
    case, _, lmm = model
    if case.old_config is None:
        pytest.skip("written by transformers 5 only")
    old = rave_mlx.load(write_checkpoint(case, tmp_path / "old", old=True))
    assert old.config == lmm.config
    prompt = lmm.prepare(CONVERSATIONS[case.conversations[-1]])
    assert (np.array(lmm.logits(prompt)) == np.array(old.logits(prompt))).all()


def test_chat_answers_from_the_checkpoint_itself(model, tmp_path, capsys):
    case, folder, lmm = model
    image = tmp_path / "page.png"
    CONVERSATIONS["one image"][0]["content"][0]["image"].save(image)
    shown = ["--image", str(image)] if lmm.config.vision else []
    command = ["chat", "--model", str(folder), *shown, "--prompt", "What?", "--max-tokens", "3", "--json"]
    assert app(command, standalone_mode=False) in (None, 0)
    answer = json.loads(capsys.readouterr().out)
    assert 1 <= answer["answer_tokens"] <= 3
    assert (answer["visual_tokens"] > 0) == bool(shown)
