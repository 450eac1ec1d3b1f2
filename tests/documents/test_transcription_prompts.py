"""The prompts: every file loads and has a source, every family gets one, and a name finds its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from families import cases, write_checkpoint

import rave_mlx
from rave_mlx.documents.transcription.answer_formats import read_answer
from rave_mlx.documents.transcription.choose_prompt import choose_prompt, names_of, prompt_for
from rave_mlx.documents.transcription.prompt_file import GENERAL, page_prompts, read_prompt
from rave_mlx.errors import ConfigError

PROMPTS = page_prompts()
MINIMAL = (
    'name = "x"\nfamilies = []\n[page]\ntext = "Read."\nformat = "text"\n[source]\naddress = "https://example.org"\n'
)


@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_every_file_is_usable_and_has_a_source(name):
    prompt = PROMPTS[name]
    address = prompt.source.address
    assert address.startswith("https://") or name == "builtin"
    assert prompt.source.verified or prompt.source.note, "say why a general instruction stands here"
    assert prompt.families or name == GENERAL
    for ask in (prompt.ask(), prompt.ask(boxes=True)):
        assert ask.text == "" or ask.text.strip()
        assert read_answer("", ask.format, ask.boxes) == []
        assert [block.text for block in read_answer("word", ask.format)] in (["word"], [])
    assert prompt.limits.max_tokens >= 128


def test_the_issue_names_these_models():
    wanted = (
        "builtin", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3", "docling", "olmocr", "rolmocr", "nanonets",
        "monkeyocr",
        "infinity_parser", "nuextract", "chandra", "mineru", "lightonocr", "glm_ocr", "paddleocr_vl", "got_ocr2",
        "dots_ocr",
        "llava", "internvl", "aki",
    )  # fmt: skip
    assert set(wanted) <= set(PROMPTS)


@pytest.mark.parametrize("name", sorted(n for n, case in cases().items() if case.processor))
def test_every_family_has_a_prompt(name, tmp_path):
    lmm = rave_mlx.load(write_checkpoint(cases()[name], tmp_path / name))
    prompt = choose_prompt(lmm)
    assert lmm.config.family in prompt.families


@pytest.mark.parametrize(
    ("family", "names", "wanted"),
    [
        ("qwen2_5_vl", ["allenai/olmOCR-2-7B-1025"], "olmocr"),
        ("qwen2_vl", ["olmOCR-7B-0225-preview"], "olmocr"),
        ("qwen2_5_vl", ["RolmOCR"], "rolmocr"),
        ("qwen2_5_vl", ["nanonets/Nanonets-OCR2-3B"], "nanonets"),
        ("qwen2_5_vl", ["my-model", "infly/Infinity-Parser-7B"], "infinity_parser"),
        ("qwen2_5_vl", ["Qwen/Qwen2.5-VL-7B-Instruct"], "qwen2_5_vl"),
        ("qwen2_vl", ["opendatalab/MinerU2.5-2509-1.2B"], "mineru"),
        ("qwen3_vl", ["datalab-to/chandra"], "chandra"),
        ("qwen3_vl", [], "qwen3_vl"),
        ("idefics3", ["ibm-granite/granite-docling-258M"], "docling"),
        ("smolvlm", ["SmolDocling-256M-preview-mlx"], "docling"),
        ("idefics3", ["HuggingFaceTB/SmolVLM-256M-Instruct"], "idefics3"),
        ("llava_next", ["ibm-granite/granite-vision-3.3-2b"], "granite_vision"),
        ("llava_next", ["granite-docling"], "llava"),
        ("got_ocr2", ["stepfun-ai/GOT-OCR-2.0-hf"], "got_ocr2"),
        ("dots_ocr", ["rednote-hilab/dots.ocr"], "dots_ocr"),
        ("something", ["new"], "general"),
    ],
)
def test_names_and_families_find_their_prompt(family, names, wanted):
    assert prompt_for(family, names) is PROMPTS[wanted]


def test_names_that_a_model_has(tmp_path):
    snapshot = tmp_path / "models--allenai--olmOCR-2-7B-1025" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"_name_or_path": "Qwen/Qwen2.5-VL-7B-Instruct"}))
    (snapshot / "README.md").write_text(
        "---\nbase_model: Qwen/Qwen2.5-VL-7B\n---\n- converted from: `a/b` at commit `c`\n"
    )
    assert list(names_of(snapshot)) == [
        "0123abcd", "allenai/olmOCR-2-7B-1025", "Qwen/Qwen2.5-VL-7B-Instruct", "a/b", "Qwen/Qwen2.5-VL-7B",
    ]  # fmt: skip
    assert list(names_of(None)) == []


def test_a_converted_model_keeps_its_prompt(tmp_path):
    source = write_checkpoint(cases()["idefics3"], tmp_path / "granite-docling-258M")
    rave_mlx.convert.convert(source, tmp_path / "mine", note=lambda line: None)
    assert choose_prompt(rave_mlx.load(tmp_path / "mine")) is PROMPTS["docling"]
    assert choose_prompt(rave_mlx.load()) is PROMPTS["builtin"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + 'colour = "red"\n', "unknown key colour"),
        (MINIMAL.replace('"text"', '"word"'), "'word' is not one of"),
        (MINIMAL.replace('name = "x"\n', ""), "missing key name"),
        (MINIMAL.replace("[page]", "[pages]"), "unknown key pages"),
        (MINIMAL + "[limits]\nmax_tokens = true\n", "expected int"),
        ("name = ", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        read_prompt(text, "file.toml")
    assert read_prompt(MINIMAL, "file.toml").ask(boxes=True).text == "Read."


def test_the_models_that_are_known_by_name_are_those_of_the_documentation():
    """Each stands in the table with the forms that its prompt is for, and what it writes."""
    form = {"idefics3": "Idefics3", "qwen2_vl": "Qwen2-VL", "qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL",
            "llava_next": "LLaVA-NeXT"}  # fmt: skip
    writes = {"doctags": "DocTags", "html": "HTML", "text": "text", "markdown": "Markdown",
              "front_matter": "Markdown behind a header", "thinking": "Markdown behind its thoughts"}  # fmt: skip
    expected = set()
    for prompt in PROMPTS.values():
        forms = [form[family] for family in prompt.families if family in form]
        if prompt.names and forms and prompt.name != "the built-in model":
            boxes = ", with boxes" if prompt.writes_boxes else ""
            expected.add((prompt.name, ", ".join(forms), writes[prompt.page.format] + boxes))
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
    rows = text.partition("## Models known by name")[2].partition("\n## ")[0].partition("|---|")[2].splitlines()
    found = {tuple(cell.strip() for cell in row.strip("| ").split("|")) for row in rows if row.startswith("| ")}
    assert found == {(name + " (its reader)" * (name == "MonkeyOCR"), *rest) for name, *rest in expected}
