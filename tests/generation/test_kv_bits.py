"""Keys and values in 8 or 4 bits: near those that are whole, and the same however they came into the cache."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from rave_mlx import backend
from rave_mlx.api import load
from rave_mlx.attention import GateTerms, attend, expanded, pack
from rave_mlx.attention.reference import reference
from rave_mlx.chat.jobs import make_job
from rave_mlx.chat.session import Session
from rave_mlx.checkpoint.adapters import twin
from rave_mlx.cli.main import main
from rave_mlx.config import GateConfig, RopeConfig
from rave_mlx.errors import UsageError
from rave_mlx.evaluate.quantization import check_cache
from rave_mlx.generation.page_folder import PageFolder
from rave_mlx.generation.page_store import PageStore
from rave_mlx.generation.prefill import kept_bytes, prefill
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.models.kv_cache import LayerCache
from tests.support import ask, picture, relative, tiny_model

PAGE = picture(96, 64, 1)
FLIPS = 1e-3
"""Of logits: rounding differs between passes, and may move a number on the border of two codes to the other one."""
QUESTIONS = ("What is it?", "And who wrote it, please?", "When?")


def model(bits=None, **text):
    settings = {"head_dim": 32, "rope": RopeConfig(theta=10000.0, sections=(4, 6, 6))} | text
    lmm = tiny_model(GateConfig(rank=6), **settings)
    lmm.kv_bits = bits
    return lmm


@pytest.fixture(scope="module")
def models():
    return {bits: model(bits) for bits in (None, 8, 4)}


def read(lmm, question=QUESTIONS[0], chunk=2048, **cache):
    prompt = lmm.prepare([ask(question, PAGE)])
    return np.asarray(prefill(lmm, prompt, lmm.make_cache(**cache), chunk=chunk))


def alone(lmm, question, **options):
    session = Session(lmm, max_tokens=12, **options)
    return [piece.token for piece in session.send(question, [PAGE])]


@pytest.mark.parametrize("bits", [8, 4])
def test_expanding_is_mlxs(bits):
    """On a CPU it is written out here; MLX's own function says what is right."""
    backend.prepare()
    x = mx.random.normal((2, 3, 5, 128)) * mx.exp(mx.random.normal((2, 3, 5, 1)))
    for size in (32, 64):
        packed = pack(x, size, bits)
        expected = mx.dequantize(packed.codes, packed.scales, packed.biases, size, bits)
        np.testing.assert_array_equal(np.asarray(expanded(packed, mx.float32)), np.asarray(expected))


@pytest.mark.parametrize("queries", [1, 3, 40])
def test_attention_over_packed_keys(queries):
    """The explicit formula over expanded keys, with a gate, for few queries and many."""
    rng = np.random.default_rng(queries)

    def normal(*shape):
        return mx.array(rng.normal(size=shape).astype(np.float32))

    q, k, v = normal(2, 4, queries, 64), normal(2, 2, 50, 64), normal(2, 2, 50, 64)
    gate = GateTerms(normal(2, 4, queries, 8), normal(2, 2, 50, 8), (0, 1), (0, 50))
    settings = {"scale": 0.125, "mask": "causal", "gate": gate}
    packed = [pack(x, 64, 8) for x in (k, v)]
    expected = reference(q, *(expanded(x, mx.float32) for x in packed), **settings)
    assert relative(attend(q, *packed, **settings), expected) < 2e-6


def test_logits_are_near_those_of_whole_keys(models):
    """Random keys of a sharp tiny model: worse than trained ones, whose outliers are fewer."""
    whole = read(models[None])
    eight, four = (relative(read(models[bits]), whole) for bits in (8, 4))
    assert 1e-5 < eight < 0.02
    assert eight < four < 0.4


@pytest.mark.parametrize("bits", [8, 4])
def test_gate_features_stay_whole(bits, models):
    plain, packed = models[None].make_cache(), models[bits].make_cache()
    for lmm, cache in ((models[None], plain), (models[bits], packed)):
        prefill(lmm, lmm.prepare([ask("What is it?", PAGE)]), cache)
    # Of the first layer, whose keys nothing quantized has touched.
    np.testing.assert_array_equal(*(np.asarray(cache.layers[0].arrays[-1]) for cache in (plain, packed)))
    assert packed.layers[0].arrays[-1].dtype == mx.float32


@pytest.mark.parametrize("bits", [8, 4])
def test_ids_do_not_depend_on_the_way(bits, models, tmp_path):
    """In one pass, in chunks, together, after another question about the page, and from the disk."""
    lmm = models[bits]
    expected = [alone(lmm, question) for question in QUESTIONS]
    assert expected != [alone(models[None], question) for question in QUESTIONS] or bits == 8
    whole = read(lmm)
    assert relative(read(lmm, chunk=7), whole) < FLIPS
    scheduler = Scheduler(lmm, rows=3)
    together = scheduler.run([make_job(lmm, [ask(q, PAGE)], max_tokens=12) for q in QUESTIONS])
    assert [list(answer.ids) for answer in together] == expected
    session = Session(lmm, max_tokens=12)
    list(session.send(QUESTIONS[1], [PAGE]))
    session.reset()
    assert [piece.token for piece in session.send(QUESTIONS[0], [PAGE])] == expected[0]
    assert session.stats.reused_tokens > 24
    for _ in range(2):
        assert alone(lmm, QUESTIONS[2], pages=PageStore(lmm, PageFolder(tmp_path, 1 << 30))) == expected[2]


def test_pages_of_other_bits_are_not_taken(models, tmp_path):
    stored = []
    for bits in (None, 8, 4, 8):
        lmm = models[bits]
        session = Session(lmm, max_tokens=2, pages=PageStore(lmm, PageFolder(tmp_path, 1 << 30)))
        list(session.send("What?", [PAGE]))
        stored.append(session.stats.stored_tokens > 0)
    assert stored == [False, False, False, True]


@pytest.mark.parametrize("policy", ["rave+var:cosine", "visiondrop", "panes+views"])
def test_policies_see_expanded_keys(policy, models):
    """What a policy computes is near what it computes from whole keys; read together or alone it is the same."""
    lmm = models[8]
    expected = alone(lmm, QUESTIONS[1], policy=policy)
    (answer,) = Scheduler(lmm).run([make_job(lmm, [ask(QUESTIONS[1], PAGE)], max_tokens=12, policy=policy)])
    assert list(answer.ids) == expected


def test_random_histories_equal_rows_packed_by_themselves():
    rng = np.random.default_rng(0)
    cache = LayerCache(8)
    kept = mx.zeros((1, 2, 0, 64))
    for count in (1, 200, 3, -60, 1, 300, -400, 5):
        if count < 0:
            cache.trim(cache.length + count)
            kept = kept[:, :, :count]
            continue
        new = mx.array(rng.normal(size=(1, 2, count, 64)).astype(np.float32))
        kept = mx.concatenate([kept, new], axis=2)
        keys, values, features = cache.append(new, 2 * new)
        assert features is None
        for found, expected in ((keys, kept), (values, 2 * kept)):
            packed = pack(expected, 64, 8)
            for name in ("codes", "scales", "biases"):
                np.testing.assert_array_equal(np.asarray(getattr(found, name)), np.asarray(getattr(packed, name)))


def test_bytes_of_a_token(models):
    """3 layers of 2 heads of 32 float32 numbers, twice; packed with a scale and an offset each."""
    sizes = {bits: kept_bytes(lmm, 1) for bits, lmm in models.items()}
    assert sizes == {None: 3 * 2 * 2 * 128, 8: 3 * 2 * 2 * (32 + 8), 4: 3 * 2 * 2 * (16 + 8)}
    lmm = models[4]
    session = Session(lmm, policy="none", max_tokens=2)
    list(session.send("What is it?"))
    assert (session.stats.token_bytes, session.stats.plain_token_bytes) == (sizes[4], sizes[None])
    cache = lmm.make_cache(gate=False)
    prefill(lmm, lmm.prepare([ask("What is it?")]), cache)
    # There is room for 128 tokens.
    assert cache.nbytes == 128 * sizes[4]


def test_divergence_from_whole_keys(models):
    lmm = models[None]
    eight, four = check_cache(lmm, 8), check_cache(lmm, 4)
    assert 0 < eight.kl_mean < 2e-3
    assert eight.kl_mean < four.kl_mean
    assert eight.agreement > 0.97
    assert lmm.kv_bits is None
    with pytest.raises(UsageError):
        check_cache(lmm, 2)


def test_a_sliding_window():
    window = {"sliding_window": 16, "sliding_layers": (0, 2)}
    whole, packed = model(None, **window), model(8, **window)
    assert 1e-5 < relative(read(packed), read(whole)) < 0.02
    assert relative(read(packed, chunk=5), read(packed)) < FLIPS


def test_a_model_is_opened_with_bits_and_hands_them_on():
    """To the models that a server makes of it for adapters."""
    lmm = load(kv_bits=4)
    assert (lmm.kv_bits, twin(lmm).kv_bits) == (4, 4)
    assert {layer.bits for layer in twin(lmm).make_cache().layers} == {4}


def test_the_command_line_refuses_other_bits(capsys):
    assert main(["chat", "--prompt", "When?", "--kv-bits", "5"]) == 2
    assert capsys.readouterr().err == (
        "rave-mlx: --kv-bits (kv_bits) is 5; keys and values are kept in 8 or 4 bits, or whole without it\n"
    )


@pytest.mark.parametrize(
    ("bits", "width", "message"),
    [
        (3, 32, "--kv-bits (kv_bits) is 3; keys and values are kept in 8 or 4 bits, or whole without it"),
        (8, 16, "--kv-bits (kv_bits): heads of 16 numbers cannot be packed, only those of a multiple of 32; leave it "
         "out"),
    ],
)  # fmt: skip
def test_what_cannot_be_packed_is_refused(bits, width, message):
    lmm = model(head_dim=width, rope=RopeConfig(theta=10000.0, sections=(width // 8, width // 8, width // 4)))
    with pytest.raises(UsageError) as caught:
        lmm.kv_bits = bits
    assert str(caught.value) == message
    assert lmm.kv_bits is None
