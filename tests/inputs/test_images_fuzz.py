"""Broken and odd images: a picture or one line, never a traceback, a hang, or a word on stderr."""

import contextlib
import faulthandler
import io
import random
import signal
import sys
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.decode import MAX_SOURCE_PIXELS
from rave_mlx.inputs.images.preprocess import open_image

SECONDS = 10
MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"]
DEEP = ["I;16", "I;16B", "I;16L"]
VARIANTS = {
    "TIFF": [{"compression": c} for c in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4", "zstd")],
    "JPEG": [{"progressive": True}, {"quality": 95, "subsampling": 0}],
    "WEBP": [{"lossless": True}],
    "JPEG2000": [{"irreversible": True}, {"no_jp2": True}, {"tile_size": (16, 16)}],
    "AVIF": [{"speed": 10}],
}
CANNOT_WRITE = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, SystemError, NameError)
"""The ways in which Pillow's writers refuse what a format cannot hold."""
ANIMATED = {"GIF", "PNG", "WEBP", "TIFF", "MPO", "AVIF"}


def colours():
    y, x = np.mgrid[:24, :32]
    return Image.fromarray(np.stack([x * 7 % 256, y * 9 % 256, x * y % 256], -1).astype(np.uint8))


def in_mode(mode):
    if mode in DEEP:
        return Image.new(mode, (32, 24), 40_000)
    if mode == "La":
        return colours().convert("LA").convert("La")
    if mode == "RGBa":
        return colours().convert("RGBA").convert("RGBa")
    return colours().convert("P").convert("PA") if mode == "PA" else colours().convert(mode)


def written():
    """Every mode in every format Pillow writes, and what else these formats can do: (name, bytes)."""
    Image.init()
    for form in sorted({*Image.SAVE} - {"HEIF"}):
        variants = [{}, *VARIANTS.get(form, [])]
        if form in ANIMATED:
            variants.append({"save_all": True, "append_images": [colours().convert("L"), colours()]})
        for mode in MODES + DEEP:
            for options in variants:
                file = io.BytesIO()
                with contextlib.suppress(*CANNOT_WRITE):
                    in_mode(mode).save(file, form, **options)
                    yield f"{form} {mode} {' '.join(options)}", file.getvalue()


def cut(rng, data, _):
    return data[: rng.randrange(len(data))]


def flip_bits(rng, data, _):
    data = bytearray(data)
    for _ in range(rng.choice([1, 4, 32])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def edit_head(rng, data, _):
    data = bytearray(data)
    for _ in range(rng.choice([1, 3])):
        data[rng.randrange(min(len(data), 128))] = rng.choice([0, 1, 2, 127, 128, 254, 255])
    return bytes(data)


def huge_number(rng, data, _):
    at = rng.randrange(min(len(data), 200))
    return (
        data[:at]
        + rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4)])
        + data[at + 4 :]
    )


def blank(rng, data, _):
    at, length = rng.randrange(len(data)), rng.choice([4, 64, 1024])
    return data[:at] + bytes(len(data[at : at + length])) + data[at + length :]


def insert(rng, data, _):
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.choice([1, 50])) + data[at:]


def splice(rng, data, others):
    other = rng.choice(others)[1]
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


DAMAGE = [cut, flip_bits, edit_head, huge_number, blank, insert, splice]


class Hang(BaseException):
    """Not an Exception: no handler of the code under test may take it for damage (TimeoutError is an OSError)."""


@contextlib.contextmanager
def watchdog(what):
    """Fail when a case takes longer than `SECONDS`; end the process when it does not even return from C code."""

    def bark(*_):
        raise Hang(f"{what}: still running after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, bark)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(6 * SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(name, source):
    """Whether `source` was shown or refused; anything else propagates."""
    with watchdog(name):
        try:
            image = open_image(source)
        except ImageError as error:
            refusal = str(error)
        else:
            refusal = None
    if refusal is not None:
        assert refusal.isprintable(), name
        assert "; " in refusal, f"{name}: no remedy in {refusal!r}"
        assert len(refusal) < 600, name
        return "refused"
    assert image.mode == "RGB", name
    assert 1 <= image.width * image.height <= MAX_SOURCE_PIXELS, name
    assert np.asarray(image).shape == (image.height, image.width, 3), name
    return "shown"


@pytest.fixture(scope="module")
def images():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(written())


@pytest.fixture
def silence(capfd):
    """Nothing may be written or warned about while the test runs."""
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert capfd.readouterr().err == ""


READ = {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PDF", "PNG", "PPM", "TIFF", "WEBP"}


def pillow_reads(data):
    """Whether Pillow reads back what it wrote (11.0 does not in all modes)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            Image.open(io.BytesIO(data)).load()
        except OSError:
            return False
    return True


def test_every_format_and_mode_that_pillow_writes(images, silence):
    pytest.importorskip("pypdfium2")
    assert len(images) > 300
    for name, data in images:
        expected = "shown" if name.startswith("PDF") or (name.split()[0] in READ and pillow_reads(data)) else "refused"
        assert outcome(name, data) == expected, name


def test_broken_images(images, silence):
    rng = random.Random(20260518)
    seen = {"shown": 0, "refused": 0}
    broken = [entry for entry in images if entry[0].split()[0] in READ]
    for number in range(1500):
        name, data = rng.choice(broken if number % 10 else images)
        damage = DAMAGE[number % len(DAMAGE)]
        seen[outcome(f"{name}, {damage.__name__}, case {number}", damage(rng, data, images))] += 1
    assert min(seen.values()) > 300, seen


def test_broken_files_on_disk(images, silence, tmp_path):
    rng = random.Random(7)
    endings = [".png", ".jpg", ".tif", ".pdf", ".gif", ".webp", ".heic", ".txt", ""]
    for number in range(200):
        name, data = rng.choice(images)
        path = tmp_path / f"image{number}{rng.choice(endings)}"
        path.write_bytes(data if number % 2 else rng.choice(DAMAGE)(rng, data, images))
        outcome(f"{name} as {path.name}", path)


def test_signatures_followed_by_nothing_or_noise(silence):
    rng = random.Random(3)
    signatures = [
        b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0",
        b"P1\n", b"P6 ", b"Pf\n", b"RIFF\xff\xff\0\0WEBPVP8 ", b"\0\0\0\x1cftypavif", b"\0\0\0\x1cftypheic",
        b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51", b"%PDF-1.7\n", b"\0\0\0\0ftyp", b"\xff\xff\xff\xffftypmif1",
    ]  # fmt: skip
    for signature in signatures:
        for tail in (b"", bytes(1), bytes(3000), b"\xff" * 3000, rng.randbytes(3000), b"9" * 3000, b"1 " * 1500):
            assert outcome(f"{signature!r} + {tail[:2]!r}", signature + tail) in ("shown", "refused")


def test_pillow_images_in_every_mode(silence):
    for mode in MODES + DEEP + ["I;16N"]:
        for size in ((1, 1), (1, 300), (7, 5), (0, 3)):
            image = Image.new(mode, size)
            assert outcome(f"{mode} {size}", image) == ("shown" if all(size) else "refused")


def test_the_watchdog_sees_a_hang(monkeypatch):
    monkeypatch.setattr(f"{__name__}.SECONDS", 1)
    with pytest.raises(Hang, match="a wait: still running"), watchdog("a wait"):
        threading.Event().wait(5)
