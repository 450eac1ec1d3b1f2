"""`rave-mlx cache`, and a page that a second process does not read again."""

import json
import stat

import pytest

from tests.command import rave, rave_process
from tests.support import form, write_image


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def answers(place):
    """Three processes about one page: the first, another question, and without the cache."""
    page = write_image(form(["Total 12.50", "Date 3 May 2024"]), place / "page.png")
    asked = [("What is the total?", ()), ("What is the date?", ()), ("What is the date?", ("--no-page-cache",))]
    found = []
    for question, options in asked:
        done = rave_process("chat", "--image", page, "--prompt", question, "--json", *options, **environment(place))
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    return found


def environment(place, limit="64"):
    return {"XDG_CACHE_HOME": str(place / "cache"), "RAVE_MLX_PAGE_CACHE": limit}


def test_the_second_process_reads_the_question_only(answers):
    first, second, without = answers
    assert (first["stored_tokens"], first["images_encoded"]) == (0, 1)
    assert second["stored_tokens"] > 30
    assert (second["images_encoded"], without["images_encoded"], without["stored_tokens"]) == (0, 1, 0)
    assert (second["text"], second["answer_tokens"]) == (without["text"], without["answer_tokens"])


def test_size_and_clearing(answers, place):
    folder = place / "cache" / "rave-mlx" / "pages"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    found = json.loads(rave("cache", "--json", **environment(place)).stdout)
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert found == {
        "folder": str(folder), "entries": 2, "bytes": size, "limit_bytes": 64 << 20, "freed_bytes": 0
    }  # fmt: skip
    assert "size     " in (shown := rave("cache", **environment(place)).stdout)
    assert f"{size / 1e6:,.1f} MB, 67 MB at most" in shown
    assert f"freed    {size / 1e6:,.1f} MB" in rave("cache", "--clear", **environment(place)).stdout
    assert list(folder.iterdir()) == []


def test_a_limit_that_is_no_number(place):
    done = rave("cache", **environment(place, "much"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "rave-mlx: RAVE_MLX_PAGE_CACHE is 'much'; give the MiB that pages may take on disk, or 0 to keep none\n"
    )
