"""Reports of neighbouring projects' users, tried here: conversations."""

from __future__ import annotations

from families import cases, write_checkpoint

import rave_mlx

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{{ m.content.split('SEPARATOR')[-1] }}{% else %}{{ m.content }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Leaves out of an answer what stands before a text, also of the last one."""


def test_a_cache_is_not_taken_for_what_the_template_leaves_of_an_answer(tmp_path):
    # unslothai/unsloth#7311, ggml-org/llama.cpp#11970, QwenLM/Qwen3#1826: keys and values of the answer as it was
    # written, thoughts included, are not those of the answer as the next prompt has it.
    folder = write_checkpoint(cases()["qwen2"], tmp_path / "model")
    template = folder / "chat_template.jinja"
    template.write_text(TEMPLATE)
    lmm = rave_mlx.load(folder)
    first = rave_mlx.generate(lmm, [{"role": "user", "content": "Hi"}], max_tokens=12)
    separator = next(c for c in first[1:] if c not in "'\\\n\r\ufffd" and first.split(c)[-1])
    template.write_text(TEMPLATE.replace("SEPARATOR", separator))
    lmm = rave_mlx.load(folder)
    session = rave_mlx.Session(lmm, max_tokens=12)
    assert "".join(piece.text for piece in session.send("Hi")) == first
    second = "".join(piece.text for piece in session.send("And now?"))
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And now?"},
    ]
    assert second == rave_mlx.generate(lmm, messages, max_tokens=12)
    kept = len(lmm.prepare(messages[:1]))
    assert session.stats is not None and session.stats.reused_tokens == kept
