"""Models of other programs, to and from this package's: convert, plan, export, fuse, upload."""

from __future__ import annotations

from rave_mlx.convert.exporting import export
from rave_mlx.convert.fusing import fuse
from rave_mlx.convert.pipeline import convert, plan
from rave_mlx.convert.planning import Plan
from rave_mlx.convert.quantize import Options
from rave_mlx.convert.uploading import push

__all__ = ["Options", "Plan", "convert", "export", "fuse", "plan", "push"]
