"""The recipe goes on from the weights that the package carries, and writes them back unchanged."""

from __future__ import annotations

import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from rave_mlx import synthetic  # noqa: E402
from rave_mlx.errors import ModelError  # noqa: E402
from recipes.builtin import packed  # noqa: E402
from recipes.builtin.infer import Reader  # noqa: E402
from recipes.builtin.measure import blend  # noqa: E402
from recipes.builtin.model import Nano  # noqa: E402


@pytest.fixture(scope="module")
def reader():
    return Reader(packed.BUILT_IN)


def test_every_weight_goes_in_and_comes_out_unchanged(reader, tmp_path):
    packed.save(reader.model, packed.BUILT_IN, tmp_path / "out")
    before, after = (load_file(d / "model.safetensors") for d in (packed.BUILT_IN, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"config.json", "tokenizer.json", "chat_template.jinja"}
    with pytest.raises(ModelError, match="exists"):
        packed.save(reader.model, packed.BUILT_IN, tmp_path / "out")


def test_the_torch_reader_answers_as_the_package_does(reader):
    """The same question about the same small page, through both."""
    from rave_mlx import load
    from rave_mlx.chat.session import Session

    page = synthetic.make(21, synthetic.PageConfig(width=320, height=240, kind="receipt", scan=False))
    asked = [q.text for q in page.questions if q.kind in ("field", "price", "title")][:4]
    session = Session(load(), policy="rave")
    theirs = []
    for question in asked:
        session.reset()
        theirs.append("".join(piece.text for piece in session.send(question, [page.image])))
    assert [text for text, _ in reader.sure_answers(page.image, asked)] == theirs


def test_certainty_is_the_probability_of_the_least_likely_token(reader):
    blank = Image.new("RGB", (320, 240), (255, 255, 255))
    page = synthetic.make(21, synthetic.PageConfig(width=320, height=240, kind="receipt", scan=False))
    title = next(q for q in page.questions if q.kind == "title")
    (_, sure), (_, other) = (reader.sure_answers(image, [title.text])[0] for image in (page.image, blank))
    assert 0 < other <= 1 and 0.5 < sure <= 1


def test_a_blend_is_the_mean_of_two_models():
    ours, start = Reader(packed.BUILT_IN).model, Reader(packed.BUILT_IN).model
    ours.load_state_dict(start.state_dict())  # the auxiliary heads are not part of what is read
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(1.0)
    before = [p.detach().clone() for p in start.parameters()]
    blend(ours, start, 0.75)
    assert all(torch.allclose(p, first + 0.75, atol=1e-5) for p, first in zip(ours.parameters(), before, strict=True))
    assert all(torch.equal(p, first) for p, first in zip(start.parameters(), before, strict=True))


def test_names_are_those_of_the_package():
    names = {packed.packed_name(name) for name, _ in Nano(packed_config(), True, 6, 9, 3).named_parameters()}
    held = set(load_file(packed.BUILT_IN / "model.safetensors"))
    assert held <= names
    assert {n.split(".")[0] for n in names - held} == {"cells", "rows"}


def packed_config():
    from recipes.builtin.layers import NanoConfig

    return NanoConfig()
