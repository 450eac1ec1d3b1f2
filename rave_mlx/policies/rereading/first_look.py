"""Where on a page the first token of an answer looked, and which parts of the page come first by that."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from rave_mlx.config import ResamplerConfig
from rave_mlx.inputs.images.patches import ImagePatches
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.rereading.answer_attention import AttentionRecorder
from rave_mlx.policies.rereading.crop_grid import Pane
from rave_mlx.policies.rereading.page_maps import Floats, page_maps, share_inside


class FirstLook:
    """Records the attention of an answer's first token to one image: mean over heads and the last third of the layers.

    A model whose visual tokens have no place on the page (a resampler's) leaves the order of panes as it is.

    Args:
        lmm: the model.
        number: of the image among all of the conversation.
    """

    def __init__(self, lmm: LMM, number: int):
        count = len(lmm.config.text.attention_layers)
        self._lmm, self._number = lmm, number
        self._recorder = AttentionRecorder(tuple(range(count - -(-count // 3), count)))
        self._seen: Floats | None = None

    def cache(self, prompt: Prompt, gate: bool | None) -> Cache:
        """An empty cache to read the prompt with.

        Args:
            prompt: what is about to be read.
            gate: whether pair gates are used; None: where the model has any that do something.
        """
        self._recorder.begin(prompt)
        return self._recorder.cache(self._lmm, gate)

    def take(self, prompt: Prompt, cache: Cache) -> None:
        """Keep where the prompt's last row looked; what is read with the cache from now on is not watched."""
        rows = mx.mean(mx.stack([rows[0] for rows in self._recorder.rows.values()]), axis=0)
        of_image = prompt.token_map.image[prompt.token_map.visual]
        self._seen = np.array(rows.astype(mx.float32)).astype(np.float64)[of_image == self._number]
        cache.hooks = None

    @property
    def knows_where(self) -> bool:
        """Whether attention to the image has been seen that says where on the page it was."""
        return self._seen is not None and not isinstance(self._lmm.config.connector, ResamplerConfig)

    def sort(self, panes: Sequence[Pane], page: ImagePatches, size: tuple[int, int]) -> list[Pane]:
        """Panes by how much of the attention lies in them, the most first.

        Args:
            panes: parts of the page.
            page: the page as it was read.
            size: its width and height in pixels, in which the panes' boxes are.
        """
        if len(panes) < 2 or not self.knows_where:
            return list(panes)
        assert self._seen is not None
        grid = page_maps(self._seen, page, self._lmm.config)
        return sorted(panes, key=lambda pane: -share_inside(grid, size, pane.box))
