"""Does the pair gate help? Equal starts, data, order and steps; the gate, its parts, and what costs as much.

    python -m recipes.ablation --small     # seven variants from a shorter start, one seed: under half an hour
    python -m recipes.ablation --out RUN   # everything that docs/evidence.md lists; goes on where it was stopped

A small reader is trained without gates until it reads dense pages in part. From there every variant goes on with the
same pages in the same order. What is compared was written down before it was run: `docs/evidence.md`.
"""
