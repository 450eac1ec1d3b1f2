"""One question about one document, with the built-in model: python examples/one_shot.py"""

from pathlib import Path

import rave_mlx

receipt = Path(__file__).parent / "documents" / "receipt.png"
lmm = rave_mlx.load()
question = [{"type": "image", "image": receipt}, {"type": "text", "text": "What is the total?"}]
for piece in rave_mlx.stream(lmm, [{"role": "user", "content": question}]):
    print(piece.text, end="", flush=True)
print()
