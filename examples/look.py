"""Where the built-in model looks while it reads a receipt, with its gates and without: python examples/look.py"""

from pathlib import Path

import rave_mlx
from rave_mlx.look import collect, draw, mass_table, write_page

lmm = rave_mlx.load()
receipt = Path(__file__).parent / "documents" / "receipt.png"
question = [{"type": "image", "image": receipt}, {"type": "text", "text": "What is the total?"}]
runs = [collect(lmm, [{"role": "user", "content": question}], policy=policy) for policy in ("none", "rave")]
for run in runs:
    _, (x, y) = run.peak(run.over())
    print(
        f"{run.attention}: {run.answer!r}, looked most at x {x:.0f}, y {y:.0f} of {run.images[0].picture.size} pixels"
    )
print(mass_table(runs[1]))
draw(runs[1]).save("look.png")
write_page(runs, Path("look.html"))
print("wrote look.png and look.html")
