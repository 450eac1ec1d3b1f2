"""What libtiff prints stays inside, and what the program prints meanwhile comes out."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rave_mlx.inputs.images.quiet import quiet

PROGRAM = """
import os, sys, threading
from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.preprocess import open_image

def decode():
    for _ in range(20):
        try: open_image(sys.argv[1])
        except ImageError: pass

threads = [threading.Thread(target=decode) for _ in range(3)]
for thread in threads: thread.start()
for number in range(50):
    print(f"rave-mlx: line {number}", file=sys.stderr, flush=True)
    os.write(2, b"step 1/2\\r")
for thread in threads: thread.join()
print("the end", file=sys.stderr)
"""


def broken():
    """A TIFF that libtiff has something to say about."""
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(pixels).save(whole, "TIFF", compression="tiff_deflate")
    data = bytearray(whole.getvalue())
    data[400:420] = bytes(20)
    return bytes(data)


def decode(data):
    with pytest.raises(OSError, match="decoder error"):
        Image.open(io.BytesIO(data)).load()


def test_libtiff_is_silenced_and_nobody_else(capfd):
    data = broken()
    decode(data)
    assert "ZIPDecode: Decoding error" in capfd.readouterr().err
    with quiet(tiff=True):
        decode(data)
        with quiet(tiff=True):
            os.write(2, b"rave-mlx: said meanwhile\n")
        decode(data)
    assert capfd.readouterr().err == "rave-mlx: said meanwhile\n"
    os.write(2, b"said later\n")
    assert capfd.readouterr().err == "said later\n"


@pytest.mark.parametrize(
    ("written", "left"),
    [
        (b'_TIFFVSetField: tempfile.tif: Bad value 0 for "RowsPerStrip" tag.\n', b""),
        (b"ZSTDDecode: Error in ZSTD_decompressStream(): Data corruption detected.\n", b""),
        (b"LZWDecode: LZWDecode: Strip 0 not terminated with EOI code.\n", b""),
        (b"ZIPDecode: rave-mlx: a.tif is left out.\nDecoding error.\n", None),
        (b"rave-mlx: a.tif is left out.\n", None),
    ],
)
def test_lines_of_libtiff(capfd, written, left):
    with quiet(tiff=True):
        os.write(2, written)
    assert capfd.readouterr().err.encode() == (written if left is None else left)


def test_lines_of_other_threads_are_kept(tmp_path):
    file = tmp_path / "broken.tif"
    file.write_bytes(broken())
    done = subprocess.run([sys.executable, "-c", PROGRAM, file], capture_output=True, check=True)
    # Threads write in pieces, so lines may be mixed with each other; nothing of them is lost.
    said = done.stderr.decode().replace("step 1/2\r", "")
    assert [number for number in range(50) if f"rave-mlx: line {number}" not in said] == []
    assert "the end" in said
    assert done.stderr.count(b"step 1/2\r") == 50


def test_a_program_without_stderr(tmp_path):
    file = tmp_path / "broken.tif"
    file.write_bytes(broken())
    code = f"import os; os.close(2)\n{PROGRAM.replace('os.write(2, ', 'len(').replace('file=sys.stderr', 'file=None')}"
    subprocess.run([sys.executable, "-c", code, file], check=True, stdout=subprocess.DEVNULL)
