"""What people pass as an image: paths and URLs of every spelling, base64, bytes, open files."""

import base64
import io
import os
import tempfile
import zipfile
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.decode import open_image
from rave_mlx.inputs.images.sources import decode_base64, split_page

LEVELS = (np.arange(24 * 40 * 3) * 7 % 256).astype(np.uint8).reshape(24, 40, 3)
NAMES = ["plain.png", "a page.png", "It's 100%.png", "Übersicht №3.png", "a#b?c.png", "a%20b.png", "[1] {x}.png"]


@pytest.fixture(scope="module")
def data():
    file = io.BytesIO()
    Image.fromarray(LEVELS).save(file, "PNG")
    return file.getvalue()


def check(source):
    np.testing.assert_array_equal(np.asarray(open_image(source)), LEVELS)


def refusal(source):
    with pytest.raises(ImageError) as caught:
        open_image(source)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 600
    return message


@pytest.mark.parametrize("name", NAMES)
def test_paths_and_file_urls(tmp_path, data, name):
    file = tmp_path / name
    file.write_bytes(data)
    for source in (file, str(file), file.as_uri()):
        check(source)
    check(file.as_uri().replace("file://", "file://localhost"))
    check("FILE:" + file.as_uri().removeprefix("file:"))
    check("file:" + quote(str(file)))
    check(f"file://{file}")  # as Qwen's messages have it, without escapes


def test_escapes_come_first(tmp_path, data):
    """file:///a%20b names "a b" (RFC 8089); the file of the literal name is read where there is no other."""
    (tmp_path / "a b.png").write_bytes(data)
    (tmp_path / "a%20b.png").write_bytes(b"not a picture")
    check(f"file://{tmp_path}/a%20b.png")


def test_file_urls_of_other_computers_and_missing_files(tmp_path, data, monkeypatch):
    assert "the file is on another computer (server); copy it" in refusal("file://server/share/a.png")
    assert "no such file" in refusal("file:///no/such/a%20page.png")
    monkeypatch.chdir(tmp_path)
    Path("relative.png").write_bytes(data)
    check("file://relative.png")


def test_data_urls(data):
    text = base64.b64encode(data).decode()
    check(f"data:image/png;base64,{text}")
    check(f"DATA:image/png;charset=utf-8;BASE64,{text}")
    check(f"data:;base64,{text}")
    check("data:image/jpeg;base64," + text)  # the bytes decide
    check("data:image/png;base64," + quote(text, safe=""))
    check("data:image/png," + quote(data))
    check("data:image/png;base64," + base64.encodebytes(data).decode())


@pytest.mark.parametrize(
    "write",
    [
        base64.b64encode,
        base64.encodebytes,
        lambda data: base64.encodebytes(data).replace(b"\n", b"\r\n"),
        lambda data: b"  " + base64.b64encode(data) + b" \n",
        base64.urlsafe_b64encode,
        lambda data: base64.urlsafe_b64encode(data).rstrip(b"="),
        lambda data: base64.b64encode(data).rstrip(b"="),
    ],
)
def test_base64_as_programs_write_it(data, write):
    for extra in (b"", b"\xff", b"\xfb\xff"):  # every length of padding, both characters in which alphabets differ
        assert decode_base64(write(data + extra)) == data + extra
        assert decode_base64(write(data + extra).decode()) == data + extra
    check(write(data).decode())
    check("data:image/png;base64," + write(data).decode())


@pytest.mark.parametrize("text", ["@@", "a", "abc=d", "aé", "QUJD!"])
def test_what_is_no_base64(text):
    with pytest.raises(ImageError, match="not valid base64"):
        decode_base64(text)
    assert "a data: URL that is not valid base64" in refusal("data:image/png;base64," + text)


def test_text_that_is_neither_a_file_nor_a_picture():
    assert "no such file" in refusal("A" * 200)
    assert "no such file" in refusal(base64.b64encode(b"hello " * 20).decode())
    assert "without a comma" in refusal("data:image/png;base64")
    for address in ("http://x/a.png", "HTTPS://x/a.png", "ftp://x/a.png", "s3://bucket/a.png"):
        assert "addresses are not fetched; download the image" in refusal(address)


def test_bytes_of_every_type(data):
    for source in (data, bytearray(data), memoryview(data), memoryview(bytearray(data))):
        check(source)


def test_open_files(tmp_path, data):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        check(file)
        check(file)  # a second time, from its beginning
        file.seek(7)
        check(file)
        assert file.tell() == 7
    written = io.BytesIO()
    Image.fromarray(LEVELS).save(written, "PNG")
    check(written)  # its place is behind the picture
    with tempfile.NamedTemporaryFile() as temporary:
        temporary.write(data)
        temporary.flush()
        check(temporary)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "a.png")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive, archive.open("a.png") as member:
        check(member)
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:  # cannot be rewound
        check(pipe)


def test_files_that_cannot_be_read(tmp_path, data):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        pass
    assert refusal(file).startswith(f"{path}: cannot be read (")
    assert refusal(file).endswith("closed file); open the file again")
    with (tmp_path / "a.txt").open("w+") as text:
        assert 'open the file with mode "rb"' in refusal(text)
    for source in (None, 3, ["a.png"], {"image": "a.png"}, object()):
        assert "an image is a path, bytes, an open binary file, an array or a PIL.Image.Image" in refusal(source)


def test_pages_in_the_fragment(tmp_path):
    assert split_page("doc.pdf#page=2") == ("doc.pdf", 2)
    assert split_page("file:///a%20b.pdf#page=12") == ("file:///a%20b.pdf", 12)
    for text in ("doc.pdf", "doc.pdf#2", "doc.pdf#page=", "doc.pdf#page=x", "#page=2"):
        assert split_page(text) == (text, None)
    odd = tmp_path / "doc.pdf#page=2"
    odd.touch()
    assert split_page(str(odd)) == (str(odd), None)
