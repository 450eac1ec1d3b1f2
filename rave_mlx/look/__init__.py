"""Where a model looks while it answers.

`collect` answers a question and keeps, for every token of the answer, the attention of the row that chose it: over
every visual token, for each layer and head. `draw` makes a picture of it, `write_page` one HTML file that works
offline, `mass_table` the shares of image, text and sinks; `pointing` measures how often attention lands on the words
that an answer quotes. `head_figures` tells visual sinks, dormant heads and the gates of heads.
"""

from rave_mlx.look.answer_maps import collect
from rave_mlx.look.heads import head_figures, head_table
from rave_mlx.look.html import write_page
from rave_mlx.look.maps import AttentionMap
from rave_mlx.look.masses import mass_table
from rave_mlx.look.picture import draw

__all__ = ["AttentionMap", "collect", "draw", "head_figures", "head_table", "mass_table", "write_page"]
