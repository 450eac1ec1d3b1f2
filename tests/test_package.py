"""The package as installed: lazy imports, the public API, and a built-in model that opens and answers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import rave_mlx
from rave_mlx.checkpoint.directory import BUILT_IN

DOCUMENTS = Path(__file__).parents[1] / "examples" / "documents"
QUESTIONS = [
    ("receipt", "What is the total?", "13.60"),
    ("receipt", "How much is the sandwich?", "7.25"),
    ("receipt", "What is the title?", "Harbour Cafe"),
    ("order", "Who is the customer?", "Elena Novak"),
    ("order", "What is the Date?", "2026-03-14"),
    ("invoice", "What is the amount?", "862.40 EUR"),
    ("invoice", "Bill to?", "Marco Rossi"),
    ("visitor", "Room?", "B-204"),
    ("stock", "What is the price of Paint?", "24.50"),
    ("stock", "How many Screws?", "240"),
]


@pytest.fixture(scope="module")
def lmm():
    return rave_mlx.load()


@pytest.mark.parametrize(("document", "question", "answer"), QUESTIONS)
def test_the_built_in_model_reads_the_example_documents(lmm, document, question, answer):
    content = [{"type": "image", "image": DOCUMENTS / f"{document}.png"}, {"type": "text", "text": question}]
    assert rave_mlx.generate(lmm, [{"role": "user", "content": content}]) == answer


def test_the_built_in_model_is_complete_and_small():
    assert {p.name for p in BUILT_IN.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md", "hub", "finder",
    }  # fmt: skip
    assert sum(p.stat().st_size for p in BUILT_IN.rglob("*") if p.is_file()) <= 31e6


def test_its_gates_are_at_work(lmm):
    assert len(lmm.decoder.gates) == lmm.config.text.num_layers
    assert lmm.make_cache().gated


def test_importing_the_package_imports_nothing_heavy():
    heavy = ("mlx.core", "numpy", "PIL", "tokenizers", "jinja2")
    code = f"import sys, rave_mlx; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_exist():
    for name in rave_mlx.__all__:
        assert getattr(rave_mlx, name) is not None
    assert callable(rave_mlx.generate)
    assert callable(rave_mlx.convert.convert)
    with pytest.raises(AttributeError, match="nothing_like_this"):
        getattr(rave_mlx, "nothing_like_this")  # noqa: B009 - the point is the lookup


def test_dir_lists_the_public_names_and_nothing_else():
    public = {"LMM", "LMMConfig", "RaveError", "Session", "backend", "convert", "evaluate", "extract", "generate",
              "load", "look", "read", "stream", "__version__"}  # fmt: skip
    assert set(dir(rave_mlx)) == public


def test_a_model_describes_itself_in_three_lines(lmm):
    first, second, third = repr(lmm).splitlines()
    assert first.startswith("LMM: qwen2_5_vl, ")
    assert "context of 4,096 tokens" in second
    assert "6 layers" in third
    assert "pair gates in 6" in third


def test_every_package_is_in_the_wheel():
    """The list is written by hand: no finder of setuptools puts a folder of the top level into a package."""
    root = Path(rave_mlx.__file__).parents[1]
    if not (root / "pyproject.toml").is_file():
        pytest.skip("not in a checkout")
    listed = set(re.findall(r'^    "(rave_mlx[\w.]*)",$', (root / "pyproject.toml").read_text(), re.MULTILINE))
    folders = [file.parent.relative_to(root) for file in (root / "rave_mlx").rglob("__init__.py")]
    found = {".".join(folder.parts) for folder in folders}
    converters = [file.parent.relative_to(root) for file in (root / "convert").rglob("__init__.py")]
    assert listed == found | {".".join(("rave_mlx", *folder.parts)) for folder in converters}
