"""Write the Metal text of every kernel variant to files that Apple's compiler takes: `python write_texts.py FOLDER`.

MLX puts its own header in front of a text before it compiles it; what the kernels use of that stands in PRELUDE.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from emulator.trace import metal_text  # noqa: E402
from samples import every_variant  # noqa: E402

PRELUDE = """#include <metal_stdlib>
#include <metal_simdgroup>
using namespace metal;
typedef half float16_t;
typedef bfloat bfloat16_t;
"""


def main(folder: Path) -> int:
    """Write the texts; returns how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = sorted({metal_text(call) for call in every_variant()})
    for number, text in enumerate(texts):
        (folder / f"kernel_{number:03}.metal").write_text(PRELUDE + text, encoding="utf-8")
    return len(texts)


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
