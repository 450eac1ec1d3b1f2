"""How well a model reads: tasks of images with questions and known answers, and the figures that are usual for them.

rave-mlx evaluate --task docs                 # generated documents, nothing else needed
rave-mlx evaluate --task questions.jsonl      # your own: {"image": ..., "question": ..., "answer": ...} a line
"""

from rave_mlx.evaluate.item import Item, Score
from rave_mlx.evaluate.metrics import anls, character_errors, exact
from rave_mlx.evaluate.report import Figures, summarize
from rave_mlx.evaluate.result import Result
from rave_mlx.evaluate.runner import answer_all

__all__ = ["Figures", "Item", "Result", "Score", "anls", "answer_all", "character_errors", "exact", "summarize"]
