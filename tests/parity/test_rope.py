"""Rotary scalings against transformers: the frequencies, and models far beyond their original context."""

from __future__ import annotations

import math

import numpy as np
import pytest
from families import Case
from families.text import SIZES
from support import relative

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: E402

import rave_mlx  # noqa: E402
from parity import golden as reference  # noqa: E402
from rave_mlx.convert.keys import Keys  # noqa: E402
from rave_mlx.convert.rope import read_rope  # noqa: E402
from rave_mlx.generation.prefill import prefill  # noqa: E402
from rave_mlx.models.rope_scaling import frequencies, rope_bucket  # noqa: E402

ORIGINAL = 24
SCALINGS = {
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 8.0, "original_max_position_embeddings": ORIGINAL},
    "yarn-no-truncate": {
        "factor": 8.0, "original_max_position_embeddings": ORIGINAL, "truncate": False, "beta_fast": 4,
        "beta_slow": 0.5,
    },
    "yarn-mscale": {
        "factor": 40.0, "original_max_position_embeddings": ORIGINAL, "mscale": 0.707, "mscale_all_dim": 1.4,
    },
    "yarn-attention": {"factor": 8.0, "original_max_position_embeddings": ORIGINAL, "attention_factor": 1.3},
    "llama3": {
        "factor": 8.0, "original_max_position_embeddings": ORIGINAL, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    },
    "longrope": {"original_max_position_embeddings": ORIGINAL},
    "longrope-factor": {"original_max_position_embeddings": ORIGINAL, "factor": 7.0},
    "longrope-attention": {"original_max_position_embeddings": ORIGINAL, "factor": 7.0, "attention_factor": 0.9},
}  # fmt: skip


def parameters(name, head_dim=16, theta=5000.0):
    """rope_parameters of a scaling."""
    kind = name.partition("-")[0]
    found = {"rope_type": kind, "rope_theta": theta, **SCALINGS[name]}
    if kind == "longrope":
        found["short_factor"] = [1 + 0.05 * i for i in range(head_dim // 2)]
        found["long_factor"] = [1.5 + 0.6 * i for i in range(head_dim // 2)]
    return found


@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("head_dim", [16, 64, 96, 128])
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies(name, head_dim, theta):
    maximum = ORIGINAL if name == "dynamic" else 131072
    config = transformers.LlamaConfig(
        hidden_size=4 * head_dim, num_attention_heads=4, max_position_embeddings=maximum,
        rope_parameters=parameters(name, head_dim, theta),
    )  # fmt: skip
    ours = read_rope(Keys(config.to_dict(), "config.json"))
    for length in (1, ORIGINAL, ORIGINAL + 1, 500, 100_000):
        expected, strength = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config, "cpu", seq_len=length)
        found, factor = frequencies(ours, head_dim, rope_bucket(ours, length))
        assert np.max(np.abs(found / expected.double().numpy() - 1)) <= 4e-6, length
        assert math.isclose(factor, strength, rel_tol=1e-12)


def case(name):
    kind = "phi3" if name.startswith("longrope") else "llama"
    extra = {"original_max_position_embeddings": ORIGINAL} if kind == "phi3" else {}
    longest = ORIGINAL if name == "dynamic" else 4096
    config = {"model_type": kind, **SIZES, "max_position_embeddings": longest, **extra}
    return Case(name, config | {"rope_parameters": parameters(name)})


def question(length):
    return [{"role": "user", "content": ("What is the total of order 17, please? " * 30)[:length]}]


@pytest.fixture(params=SCALINGS)
def models(request, tmp_path):
    """A case, a function that makes transformers' model of it (whose rotary module remembers lengths), and ours."""
    made = case(request.param)
    if request.param == "dynamic":
        # A dynamic model's context is its factor times the original one: enough for the test.
        made.config["rope_parameters"]["factor"] = 40.0
    folder = reference.checkpoint(made, reference.hf_model(made), tmp_path / "hf")
    return made, lambda: reference.hf_model(made), rave_mlx.load(folder)


def test_logits_far_beyond_the_original_context(models):
    made, fresh, lmm = models
    prompts = [lmm.prepare(question(n)) for n in (400, 150)]
    assert len(prompts[0]) > 4 * ORIGINAL
    for prompt in prompts:
        assert relative(lmm.logits(prompt), reference.hf_logits(made, fresh(), [prompt])) <= 1e-5
    ours, theirs = lmm.logits(prompts), reference.hf_logits(made, fresh(), prompts)
    for row, prompt in enumerate(prompts):
        assert relative(ours[row, -len(prompt) :], theirs[row, -len(prompt) :]) <= 1e-5
    last = prefill(lmm, prompts[0], lmm.make_cache(), chunk=37)
    assert relative(last, reference.hf_logits(made, fresh(), prompts[:1])[:, -1]) <= 1e-5


def test_greedy_answers_across_the_original_context(models):
    made, fresh, lmm = models
    prompt = lmm.prepare([{"role": "user", "content": "Hi"}])
    assert len(prompt) < ORIGINAL
    with torch.no_grad():
        out = fresh().generate(
            **reference.batch(made, [prompt]), max_new_tokens=30, do_sample=False, pad_token_id=0, eos_token_id=2
        )
    expected = out[0, len(prompt) :].tolist()
    assert len(expected) == 30
    found = rave_mlx.stream(lmm, [{"role": "user", "content": "Hi"}], max_tokens=30)
    assert [piece.token for piece in found] == expected
