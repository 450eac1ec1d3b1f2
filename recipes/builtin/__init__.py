"""How the built-in model is trained: PyTorch, one command, resumable. Nothing here is imported by the package.

    python -m recipes.builtin.train --start DIR --out RUN --minutes 70
    python -m recipes.builtin.export --run RUN --like DIR --out RAVE_DIR
    rave-mlx evaluate --model RAVE_DIR --task docs

Needs torch and safetensors, the fonts of `rave_mlx.synthetic.fonts.DEBIAN_PACKAGES`, and Chromium for the
`browser` set. On a machine shared with other work, `OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0` keeps a busy core from
stalling the other: threads that spin at a barrier cost a factor of eight there.
"""
