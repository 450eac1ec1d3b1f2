"""How the built-in model is trained: PyTorch, one command, resumable. Nothing here is imported by the package.

python -m rave_mlx.nano.recipe.train --start DIR --out DIR --minutes 70
python -m rave_mlx.nano.recipe.export --run DIR --out DIR
python -m rave_mlx.nano.recipe.evaluate --model DIR --set own
"""
