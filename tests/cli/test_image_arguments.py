"""Images on the command line and in the conversation: several after one option, pages, patterns, pipes, dragging."""

from __future__ import annotations

import base64
import io
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from command import rave

from rave_mlx.cli.image_arguments import dragged_images, named_files, open_arguments, spread_images, typed_images
from rave_mlx.errors import ImageError, UsageError
from rave_mlx.inputs.images.decode import open_image

DOCUMENTS = Path(__file__).parents[2] / "examples" / "documents"
NAMES = [
    "scan.png",
    "My scan.png",
    "It's a scan.png",
    'a "quoted" $1.png',
    "back\\slash.png",
    "(1) [x] & y;z.png",
    "Ü.png",
]


@pytest.mark.parametrize(
    ("given", "spread"),
    [
        ("--image a", "--image a"),
        ("--image a b c -p q", "--image a --image b --image c -p q"),
        ("-p q --image a b", "-p q --image a --image b"),
        ("-i a b -i c", "--image a --image b --image c"),
        ("--image=a b", "--image a --image b"),
        ("-ia b", "--image a --image b"),
        ("--image a --json b", "--image a --json b"),  # left for the parser to refuse
        ("b --image a", "b --image a"),
        ("--image - --prompt q", "--image - --prompt q"),
        ("--image a - b", "--image a --image - --image b"),
        ("--image a --page 2", "--image a#page=2"),
        ("--image a b --page 2", "--image a --image b#page=2"),
        ("--image a --page 2 --image b --page=3", "--image a#page=2 --image b#page=3"),
        ("--image a --page 2 b --page 3", "--image a#page=2 --image b#page=3"),
        ("--image a --page 1 --page 2", "--image a#page=1 --image a#page=2"),
        ("--image a --json --page 2", "--image a#page=2 --json"),
        ("--page 2 --image a b", "--page 2 --image a --image b"),
        ("--image a --page x", "--image a --page x"),
        ("--image a --page 0", "--image a --page 0"),
        ("--image a --page", "--image a --page"),
        ("--image", "--image"),
        ("--image a -- b --page 2", "--image a -- b --page 2"),
        ("--image-tokens 9 --image a", "--image-tokens 9 --image a"),
    ],
)
def test_every_file_gets_its_option_and_its_page(given, spread):
    assert spread_images(given.split()) == spread.split()


def test_a_page_that_is_given_twice():
    with pytest.raises(UsageError, match="the page is given twice"):
        spread_images(["--image", "a.pdf#page=1", "--page", "2"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in (*NAMES, "page 2.png"):
        shutil.copy(DOCUMENTS / "receipt.png", tmp_path / name)
    (tmp_path / "notes.txt").write_text("Total?")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def opened(values, page=1):
    return [(str(image.source), image.page) for image in open_arguments(values, page)]


def test_pages_of_arguments(folder):
    assert opened(["a.pdf#page=2", "b.pdf"], 7) == [("a.pdf", 2), ("b.pdf", 1)]
    assert opened(["a.pdf", "b.pdf"], 7) == [("a.pdf", 7), ("b.pdf", 1)]
    (folder / "a.pdf#page=2").touch()
    assert opened(["a.pdf#page=2"]) == [("a.pdf#page=2", 1)]


def test_patterns(folder):
    assert opened(["*scan.png"]) == [("It's a scan.png", 1), ("My scan.png", 1), ("scan.png", 1)]
    assert opened([f"{folder}/scan.*#page=3"]) == [(f"{folder}/scan.png", 3)]
    assert opened(["(1) [x] & y;z.png"]) == [("(1) [x] & y;z.png", 1)]  # a file before a pattern
    with pytest.raises(ImageError, match=r"\*\.tiff: no file matches; check the pattern"):
        open_arguments(["*.tiff"])


def test_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert opened(["~/scan.png"]) == [(str(folder / "scan.png"), 1)]
    assert opened(["~nobody-of-this-name/scan.png"]) == [("~nobody-of-this-name/scan.png", 1)]


def test_addresses_say_what_to_do():
    with pytest.raises(ImageError, match=r"https://x.org/a.png: addresses are not fetched; download .* --image -"):
        open_arguments(["https://x.org/a.png"])


def test_urls_of_files_and_data(folder):
    url = (folder / "My scan.png").as_uri()
    data = "data:image/png;base64," + base64.b64encode((folder / "scan.png").read_bytes()).decode()
    for image in open_arguments([url, f"{url}#page=1", data]):
        assert open_image(image.source, image.page).size == (320, 190)
        assert len(image.name) < 200


class Pipe:
    def __init__(self, data, terminal=False):
        self.buffer, self.isatty = io.BytesIO(data), lambda: terminal


def test_standard_input(folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Pipe(Path("scan.png").read_bytes()))
    (image,) = open_arguments(["-"])
    assert image.is_stdin
    for _ in range(2):
        assert open_image(image.source).size == (320, 190)
    monkeypatch.setattr(sys, "stdin", Pipe(b"%PDF-1.7"))
    (image,) = open_arguments(["-#page=2"])
    assert image.page == 2
    with pytest.raises(ImageError, match="standard input: the PDF"):
        open_image(image.source, image.page)
    with pytest.raises(UsageError, match="standard input holds one image"):
        open_arguments(["-", "scan.png", "-"])
    monkeypatch.setattr(sys, "stdin", Pipe(b"", terminal=True))
    with pytest.raises(ImageError, match="is a terminal; pipe an image"):
        open_arguments(["-"])


def spellings(path):
    """A path as terminals put it in when a file is dragged there, and as people type it."""
    text = str(path)
    escaped = "".join(c if c.isalnum() or c in "/._-" else "\\" + c for c in text)
    return [
        text,
        f"{text} ",
        f"  {text}",
        escaped,
        f"{escaped} ",
        shlex.quote(text),
        path.as_uri(),
        f"'{path.as_uri()}'",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_dragged_paths(folder, name):
    for line in spellings(folder / name):
        (file,) = dragged_images(line)
        assert open_image(open_arguments([file])[0].source).size == (320, 190), line
        (image,) = typed_images(line)
        assert open_image(image.source).size == (320, 190), line


def test_several_dragged_at_once(folder):
    line = " ".join(shlex.quote(str(folder / name)) for name in NAMES[:3])
    assert dragged_images(line) == [str(folder / name) for name in NAMES[:3]]
    assert dragged_images(f"{folder}/scan.png Ü.png") == [f"{folder}/scan.png", "Ü.png"]


@pytest.mark.parametrize(
    "line",
    ["", " ", "What is the total?", "It's what?", "notes.txt", "scan.png?", "scan.png missing.png", "no.png", "."],
)
def test_questions_are_questions(folder, line):
    assert dragged_images(line) is None


def test_a_whole_path_is_a_file_whatever_is_in_it(folder):
    assert dragged_images(f"{folder}/notes.txt") == [f"{folder}/notes.txt"]
    assert dragged_images(str(folder)) == [str(folder)]
    assert dragged_images("/no/such/file.png") is None
    assert named_files("notes.txt") == ["notes.txt"]


def test_what_follows_the_command(folder):
    def typed(text):
        return [(str(image.source), image.page) for image in typed_images(text)]

    assert typed("scan.png") == [("scan.png", 1)]
    assert typed("scan.png 3") == [("scan.png", 3)]
    assert typed("My scan.png 3") == [("My scan.png", 3)]
    assert typed("'My scan.png' 3") == [("My scan.png", 3)]
    assert typed("scan.png#page=3") == [("scan.png", 3)]
    assert typed("page 2.png") == [("page 2.png", 1)]
    assert typed("scan.png 2 'My scan.png' Ü.png 4") == [("scan.png", 2), ("My scan.png", 1), ("Ü.png", 4)]
    assert typed("missing.png") == [("missing.png", 1)]
    assert typed("It's missing.png") == [("It's missing.png", 1)]
    assert len(typed("*scan.png")) == 3
    with pytest.raises(UsageError, match="the conversation comes from standard input"):
        typed_images("-")


def test_the_commands_take_several_files(folder):
    done = rave("chat", "--image", "scan.png", DOCUMENTS / "order.png", "--prompt", "What is the total?")
    assert (done.returncode, done.stdout) == (0, "$1,284.50\n")
    assert done.stderr.count("visual tokens") == 2
    looked = rave("look", "--image", "scan.png", "--prompt", "What is the total?", "--out", folder / "out", "--page", 2)
    assert looked.returncode == 1
    assert "page 2 was asked for, a PNG file is read as one page" in looked.stderr


def test_the_conversation_takes_dragged_files(folder):
    lines = [
        *spellings(folder / "It's a scan.png")[3:4],
        "What is the total?",
        "/image My scan.png",
        "What is the total?",
    ]
    done = rave("chat", stdin="\n".join(lines) + "\n")
    assert done.stdout == "13.60\n13.60\n"
    refused = rave("chat", stdin=f"{folder}/notes.txt\n")
    assert refused.returncode == 1
    assert "notes.txt: this is a text file; name a picture or a PDF" in refused.stderr


def test_questions_and_an_image_cannot_both_come_from_standard_input(folder):
    done = rave("chat", "--image", "-", stdin="What?\n")
    assert done.returncode == 2
    assert "give --prompt" in done.stderr
