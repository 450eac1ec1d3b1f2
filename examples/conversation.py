"""Several questions about one page; only the first reads it: python examples/conversation.py"""

from pathlib import Path

import rave_mlx

documents = Path(__file__).parent / "documents"
chat = rave_mlx.Session(rave_mlx.load())
images = [documents / "invoice.png"]
for question in ("What is the invoice no?", "Bill to?", "What is the amount?"):
    print(f"{question} ", end="")
    for piece in chat.send(question, images):
        print(piece.text, end="", flush=True)
    images = []
    stats = chat.stats
    print(
        f"   [{stats.reused_tokens} of {stats.prompt_tokens} tokens reused, vision tower ran {stats.images_encoded}x]"
    )
