"""The folder of a finder travels with its model."""

from __future__ import annotations

from rave_mlx.checkpoint import directory
from rave_mlx.convert.stored import read_rave_directory

NAMES = {
    "config.json", "model.safetensors", "tokenizer.json", "LICENSE", "lines.json", "lines.safetensors", "lines.NOTICE",
}  # fmt: skip


def test_the_built_in_model_has_a_finder_with_its_licence():
    files = directory.finder_files(directory.BUILT_IN)
    assert {file.name for file in files} == NAMES
    assert set(files) <= set(read_rave_directory(directory.BUILT_IN).files)
    assert "Apache License" in (directory.BUILT_IN / "finder" / "LICENSE").read_text()


def test_a_model_without_a_finder_has_no_files(tmp_path):
    assert directory.finder_files(tmp_path) == ()


def test_a_directory_that_is_written_carries_it(tmp_path):
    base = read_rave_directory(directory.BUILT_IN)
    template = base.lmm.template.source
    out = tmp_path / "copy"
    directory.write(out, base.lmm.config, base.tensors, tokenizer=base.tokenizer, template=template, card="",
                    finder_files=base.finder_files)  # fmt: skip
    for name in NAMES:
        assert (out / "finder" / name).read_bytes() == (directory.BUILT_IN / "finder" / name).read_bytes()
