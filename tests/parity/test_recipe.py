"""The compact training module against transformers, and its cached inference against itself."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from PIL import Image  # noqa: E402

from rave_mlx.synthetic import PageConfig  # noqa: E402
from recipes.builtin import infer, train, weights  # noqa: E402
from recipes.builtin.config import TrainConfig  # noqa: E402
from recipes.builtin.data import CHARACTERS, LINES, SLOTS, UNCOUNTED, batches  # noqa: E402
from recipes.builtin.deepen import deepen  # noqa: E402
from recipes.builtin.layers import NanoConfig, rotate  # noqa: E402
from recipes.builtin.losses import losses, row_loss  # noqa: E402
from recipes.builtin.model import Nano  # noqa: E402
from recipes.builtin.tokens import (  # noqa: E402
    END_OF_TEXT,
    IMAGE,
    IMAGE_PREFIX,
    TURN_END,
    VIDEO,
    VISION_END,
    VISION_START,
    VOCABULARY,
    decode,
    question_ids,
)
from recipes.builtin.vision import make_grid, pixels  # noqa: E402

CONFIG = TrainConfig()
SIZES = [(64, 256), (208, 304), (80, 400), (336, 496)]


def small_config() -> "transformers.Qwen2_5_VLConfig":
    c = NanoConfig()
    return transformers.Qwen2_5_VLConfig(
        vision_config={
            "depth": c.vision_depth,
            "hidden_size": c.vision_width,
            "hidden_act": "silu",
            "intermediate_size": c.vision_mlp,
            "num_heads": c.vision_heads,
            "in_channels": 3,
            "in_chans": 3,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 64,
            "out_hidden_size": c.width,
            "fullatt_block_indexes": list(c.full_attention_layers),
        },
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": c.width,
            "intermediate_size": c.mlp,
            "num_hidden_layers": c.depth,
            "num_attention_heads": c.heads,
            "num_key_value_heads": c.kv_heads,
            "head_dim": c.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "use_sliding_window": False,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": c.rope_theta,
                "mrope_section": list(c.rope_sections),
            },
            "bos_token_id": None,
            "eos_token_id": TURN_END,
            "pad_token_id": END_OF_TEXT,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=True,
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory):
    """A transformers model with random grey-symmetric weights, the same as a Nano, and their directory."""
    torch.manual_seed(3)
    mine = Nano(NanoConfig(), True, SLOTS, CHARACTERS, LINES).eval()
    for name, p in mine.named_parameters():
        if "embed" in name:
            torch.nn.init.normal_(p, std=0.3)
        elif p.dim() == 2 and ".gate." not in name:
            torch.nn.init.normal_(p, std=1.5 * p.shape[1] ** -0.5)
    folder: Path = tmp_path_factory.mktemp("nano")
    weights.save(mine, folder)
    small_config().save_pretrained(folder)
    theirs = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return mine, theirs, folder


def patches(grey: np.ndarray) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Pixels as the Qwen2-VL processor lays them out: a row a patch, merge blocks together."""
    h, w = grey.shape
    x = torch.from_numpy(grey).float() / 127.5 - 1
    x = x.reshape(h // 16, 2, 8, w // 16, 2, 8).permute(0, 3, 1, 4, 2, 5).reshape(-1, 1, 1, 8, 8)
    return x.expand(-1, 3, 2, 8, 8).reshape(x.shape[0], -1), torch.tensor([[1, h // 8, w // 8]])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_logits_equal_transformers_on_sizes_that_cut_windows(pair, height, width):
    mine, theirs, _ = pair
    grey = np.random.default_rng(height).integers(0, 256, (height, width), dtype=np.uint8)
    pixel_values, grid = patches(grey)
    asked = question_ids("What is the total?")
    ids = torch.tensor([[*IMAGE_PREFIX, *[IMAGE] * (height * width // 256), VISION_END, *asked]])
    with torch.no_grad():
        kinds = (ids == IMAGE).long()
        expected = theirs(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixel_values,
            image_grid_thw=grid,
            mm_token_type_ids=kinds,
        ).logits[0, -len(asked) :]
        tokens = mine.visual(pixels(torch.from_numpy(grey)[None]), make_grid(height, width, 64))
        text = torch.tensor([asked])
        places = torch.arange(len(asked))[None]
        hidden = mine.decode(tokens, (height // 16, width // 16), text, torch.zeros_like(text), places).hidden
        logits = mine.logits(hidden)[0]
    assert float((logits - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_packed_questions_do_not_see_each_other(pair):
    mine, _, _ = pair
    grey = torch.randint(0, 256, (1, 64, 208), generator=torch.Generator().manual_seed(0))
    tokens = mine.visual(pixels(grey), make_grid(64, 208, 64))
    first, second = question_ids("Total?"), question_ids("Who is the customer?")

    def run(*questions: list[int]) -> "torch.Tensor":
        ids = torch.tensor([[t for q in questions for t in q]])
        segment = torch.tensor([[i for i, q in enumerate(questions) for _ in q]])
        place = torch.tensor([[j for q in questions for j in range(len(q))]])
        with torch.no_grad():
            return mine.decode(tokens, (4, 13), ids, segment, place).hidden[0]

    both = run(first, second)
    torch.testing.assert_close(both[: len(first)], run(first), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[len(first) :], run(second), rtol=1e-4, atol=1e-4)


def test_a_fresh_gate_changes_nothing_and_a_trained_one_does(pair):
    mine, _, folder = pair
    bare = Nano(NanoConfig(), False, SLOTS, CHARACTERS, LINES).eval()
    weights.load(bare, folder)
    gated = Nano(NanoConfig(), True, SLOTS, CHARACTERS, LINES).eval()
    weights.load(gated, folder)
    batch = next(batches(0, 400, lambda: 100, PageConfig()))
    with torch.no_grad():
        base = losses(bare, batch, False, CONFIG).answer
        assert torch.equal(base, losses(gated, batch, False, CONFIG).answer)
        for layer in gated.language_model.layers:
            layer.gate.W.normal_(generator=torch.Generator().manual_seed(1))
        assert not torch.equal(base, losses(gated, batch, False, CONFIG).answer)


def test_a_deeper_decoder_starts_with_the_same_answers():
    torch.manual_seed(0)
    shallow = Nano(NanoConfig(depth=4), True, SLOTS, CHARACTERS, LINES).eval()
    with torch.no_grad():
        for parameter in shallow.parameters():
            parameter.normal_(std=0.05)
    deep = Nano(NanoConfig(), True, SLOTS, CHARACTERS, LINES).eval()
    deep.load_state_dict(deepen(shallow.state_dict(), NanoConfig()))
    assert len(deep.language_model.layers) == 6
    batch = next(batches(0, 400, lambda: 100, PageConfig()))
    with torch.no_grad():
        config = TrainConfig(looking_layers=(2, 3), counting_layer=1)
        expected = losses(shallow, batch, False, config)
        found = losses(deep, batch, False, CONFIG)
    assert vars(expected).keys() == {"answer", "cells", "rows", "look"}
    for name, part in vars(expected).items():  # looks and line numbers two layers further up
        assert torch.equal(part, vars(found)[name]), name


def test_the_line_loss_counts_cells_with_text_only():
    """Against the definition, written out a cell at a time in float64."""
    torch.manual_seed(2)
    mine = Nano(NanoConfig(depth=1), False, SLOTS, CHARACTERS, LINES)
    visual, rows = torch.randn(2, 6, 256) * 3, torch.full((2, 6), UNCOUNTED)
    for page, cell, number in ((0, 1, 0), (0, 5, 2), (1, 3, LINES - 1)):
        rows[page, cell] = number
    expected = []
    for page, cell in (rows != UNCOUNTED).nonzero().tolist():
        state = visual[page, cell].double()
        scores = mine.rows.weight.double() @ (state / (state.pow(2).mean() + 1e-6).sqrt()) + mine.rows.bias.double()
        expected.append(float((scores.logsumexp(0) - scores[rows[page, cell]]).detach()))
    with torch.no_grad():
        assert float(row_loss(mine, visual, rows)) == pytest.approx(sum(expected) / 3, rel=1e-5)
        assert float(row_loss(mine, visual, torch.full((2, 6), UNCOUNTED))) == 0


def test_a_state_without_an_auxiliary_head_can_be_gone_on_with(tmp_path):
    torch.manual_seed(4)
    state = Nano(NanoConfig(depth=4), True, SLOTS, CHARACTERS, LINES).state_dict()
    old = {name: tensor for name, tensor in state.items() if not name.startswith("rows.")}
    (tmp_path / "old").mkdir()
    torch.save({"model": old}, tmp_path / "old" / "state.pt")
    run = train.Run(CONFIG, tmp_path / "old", tmp_path / "new")
    assert torch.equal(run.model.cells.weight, state["cells.weight"])
    assert run.model.rows.weight.shape == (LINES, 256)
    torch.save({"model": {k: v for k, v in old.items() if "norm" not in k}}, tmp_path / "old" / "state.pt")
    with pytest.raises(RuntimeError, match="norm"):
        train.Run(CONFIG, tmp_path / "old", tmp_path / "new")


def test_looks_are_shares_of_attention():
    """What falls on the target and its neighbours, against weights written out from scratch."""
    torch.manual_seed(1)
    mine = Nano(NanoConfig(depth=1), False, SLOTS, CHARACTERS, LINES).eval()
    tokens = torch.randn(1, 52, 256)
    ids = torch.tensor([question_ids("Total?")])
    target = torch.arange(ids.shape[1])[None] * 3
    seen: dict[str, torch.Tensor] = {}
    block = mine.language_model.layers[0]
    for name in ("q_proj", "k_proj"):
        part = getattr(block.self_attn, name)
        part.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out.detach()))
    with torch.no_grad():
        looks = mine.decode(
            tokens, (4, 13), ids, torch.zeros_like(ids), torch.arange(ids.shape[1])[None], target, (0,)
        ).looks
        x, positions = mine.prefix(tokens, (4, 13))
        text = torch.arange(ids.shape[1]) + positions[0, -1] + 1
        cos, sin = mine.rope(torch.cat([positions, text.expand(3, -1)], 1)[:, None])
    q, k = (rotate(seen[n].view(1, -1, h, 64), cos, sin)[0].double() for n, h in (("q_proj", 4), ("k_proj", 2)))
    head = x.shape[1]
    for row in range(ids.shape[1]):
        for h in range(4):
            weight = torch.softmax((k[: head + row + 1, h // 2] @ q[head + row, h]) / 8, 0)
            at = len(IMAGE_PREFIX) + int(target[0, row])
            share = weight[max(at - 1, len(IMAGE_PREFIX)) : at + 2].sum()
            assert float(looks[0][0, h, row].exp()) == pytest.approx(float(share), rel=1e-4)


def test_gates_survive_saving(pair, tmp_path):
    mine, _, _ = pair
    with torch.no_grad():
        for layer in mine.language_model.layers:
            layer.gate.beta.fill_(0.25)
    weights.save(mine, tmp_path)
    again = Nano(NanoConfig(), True, SLOTS, CHARACTERS, LINES)
    weights.load(again, tmp_path)
    for a, b in zip(mine.language_model.layers, again.language_model.layers, strict=True):
        for name in ("U", "W", "a", "c", "beta"):
            assert torch.equal(getattr(a.gate, name), getattr(b.gate, name))
    with torch.no_grad():
        for layer in mine.language_model.layers:
            layer.gate.beta.zero_()


def test_cached_answers_equal_transformers_generate(pair):
    _, theirs, folder = pair
    reader = infer.Reader(folder)
    grey = np.random.default_rng(5).integers(0, 256, (96, 224), dtype=np.uint8)
    questions = ["Total?", "What is the date?", "Who is the customer?", "Date?"]
    answers = reader.answer(Image.fromarray(grey), questions, most=12)
    pixel_values, grid = patches(grey)
    for question, answer in zip(questions, answers, strict=True):
        ids = torch.tensor([[*IMAGE_PREFIX, *[IMAGE] * (6 * 14), VISION_END, *question_ids(question)]])
        with torch.no_grad():
            made = theirs.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == IMAGE).long(),
                pixel_values=pixel_values,
                image_grid_thw=grid,
                max_new_tokens=12,
                do_sample=False,
                eos_token_id=[TURN_END, END_OF_TEXT],
                pad_token_id=END_OF_TEXT,
            )[0, ids.shape[1] :]
        ends = [i for i, t in enumerate(made.tolist()) if t in (TURN_END, END_OF_TEXT)]
        assert answer == decode(made.tolist()[: ends[0]] if ends else made.tolist())


@pytest.mark.parametrize(("width", "height"), [(333, 201), (100, 30), (900, 700), (512, 512), (47, 640)])
def test_canvas_equals_the_image_processors(width, height):
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    h, w = module.smart_resize(height, width, factor=16, min_pixels=64 * 64, max_pixels=512 * 512)
    assert infer.canvas(width, height) == (w, h)


def test_learning_lowers_the_loss_and_resumes_where_it_stopped(tmp_path, pair):
    _, _, folder = pair
    config = TrainConfig(minutes=1000, warmup_minutes=1e-9, head_minutes=0, muon=1e-3, adamw=5e-4)
    run = train.Run(config, folder, tmp_path)
    batch = next(batches(1, 150, lambda: 70, PageConfig()))
    first = run.learn(batch)
    for _ in range(4):
        last = run.learn(batch)
    assert all(last[name] < first[name] for name in ("answer", "cells", "rows"))
    run.store()
    again = train.Run(config, folder, tmp_path)
    assert (again.step, again.pages) == (run.step, run.pages)
    assert again.minutes >= run.spent
    for (name, a), b in zip(run.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b), name
    for mine, theirs in zip(run.optimizers, again.optimizers, strict=True):
        for key, kept in mine.state_dict()["state"].items():
            assert all(torch.equal(kept[n], theirs.state_dict()["state"][key][n]) for n in kept)
    assert again.learn(batch) == pytest.approx(run.learn(batch), rel=1e-2)


def test_the_rate_warms_up_holds_and_ends_at_zero():
    config = TrainConfig(minutes=100, head_minutes=1, warmup_minutes=2, steady=0.5)
    assert [round(train.rate(m, config), 3) for m in (0, 1, 2, 3, 50, 75, 100, 130)] == [0, 0, 0.5, 1, 1, 0.5, 0, 0]
