"""How the built-in model is trained: PyTorch, one command, resumable. Nothing here is imported by the package.

    python -m recipes.builtin.train --start DIR --out RUN --minutes 70
    python -m recipes.builtin.export --run RUN --like DIR --out RAVE_DIR
    rave-mlx evaluate --model RAVE_DIR --task docs

To go on from the weights that the package carries, with pages that are asked by meaning (`rave_mlx.synthetic.meaning`):

    python -m recipes.builtin.train --out RUN --minutes 240 --meaning 0.67 --muon 7e-4 --adamw 2.8e-4 --gates 1.6e-3
    python -m recipes.builtin.measure --run RUN                        # by kind, layout, style and role; quick
    python -m recipes.builtin.measure --run RUN --export RAVE_DIR
    python -m recipes.builtin.natural --out FOLDER                     # ordinary pages, written by hand; Chromium
    rave-mlx evaluate --model RAVE_DIR --task FOLDER/development.jsonl --out ANSWERS
    python -m recipes.builtin.natural --table ANSWERS
    rave-mlx evaluate --model RAVE_DIR --task meaning:held_out

What finds answers among the words of a page is trained by `recipes.builtin.finder`.

Fonts of thermal and needle printers beside the usual ones: `rave_mlx.synthetic.meaning.faces.DEBIAN_PACKAGES`.

Needs torch and safetensors, the fonts of `rave_mlx.synthetic.fonts.DEBIAN_PACKAGES`, and Chromium for the
`browser` set. On a machine shared with other work, `OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0` keeps a busy core from
stalling the other: threads that spin at a barrier cost a factor of eight there.
"""
