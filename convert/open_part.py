"""Open the part of a model that a process holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import mlx.core as mx

from rave_mlx.attention.gate import any_acts
from rave_mlx.backend.channel import Link, meet
from rave_mlx.backend.distributed import World
from rave_mlx.checkpoint import build
from rave_mlx.checkpoint.safetensors_part import Place, read_part
from rave_mlx.generation.follower import Follower
from rave_mlx.models.lmm import LMM
from rave_mlx.models.split.decoder import PartDecoder
from rave_mlx.models.split.leader import Followers, LeadingDecoder, SplitLMM
from rave_mlx.models.split.shares import part_config, share_of, units_of
from rave_mlx.models.split.tensors import Part, Parts, parts_of

Find = Callable[[str], Place | None]


@dataclass(frozen=True)
class Processes:
    """The processes that hold a model together.

    Attributes:
        world: all of them.
        links: in process 0 to each of the others, in the others to process 0.
    """

    world: World
    links: tuple[Link, ...]

    @classmethod
    def of(cls, world: World) -> Processes:
        """Connect them.

        Raises:
            RaveError: where they do not find each other.
        """
        return cls(world, tuple(meet(world)))

    @property
    def group(self) -> mx.distributed.Group:
        """MLX's own."""
        assert self.world.group is not None
        return self.world.group


def open_part(
    whole: LMM,
    tensors: Iterable[tuple[str, mx.array]],
    find: Find,
    processes: Processes,
    dtype: mx.Dtype | None,
    where: str,
) -> tuple[LMM, Follower | None]:
    """The part of a model that this process holds, filled with its weights.

    Args:
        whole: the model without weights.
        tensors: all of its canonical tensors, lazy; taken once.
        find: where a tensor lies as it is used, for one of which a part can be read.
        processes: that share the model.
        dtype: type to compute in, as of `build.fill`.
        where: the model's place, for messages.

    Returns:
        In process 0 the model, to be used as any other, and None; in the others what runs their part.

    Raises:
        ModelError: for a model that cannot be split among so many; as of `build.fill`.
        MemoryLimitError: when the part does not fit into memory.
    """
    world, config = processes.world, whole.config
    share = share_of(config, world.rank, world.size)
    units = units_of(config, world.size)
    own = part_config(config, share, units)
    follower = None
    if world.rank == 0:
        followers = Followers(processes.links)
        lmm: LMM = SplitLMM(whole, LeadingDecoder(own, processes.group, followers), followers)
    else:
        lmm = whole
        lmm.decoder = PartDecoder(own, processes.group)
        for holder, name in ((lmm, "vision"), (lmm, "connector"), (lmm.decoder, "embed"), (lmm.decoder, "head")):
            holder.pop(name, None)
        follower = Follower(lmm.decoder, processes.links[0])

    def read(name: str, part: Part) -> mx.array | None:
        place = find(name)
        return None if place is None or part.axis is None else read_part(place, part.axis, part.spans)

    build.fill(lmm, dict(parts_of(tensors, Parts(config, share, units), read)), dtype, where)
    acts = world.totals(any_acts(lmm.decoder.gates))[0] > 0
    if isinstance(lmm, SplitLMM):
        lmm.gates_act = acts
    return lmm, follower
