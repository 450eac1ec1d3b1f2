"""The models of a server: one base model, and adapters on it that are loaded when somebody asks for them.

An adapter shares the weights of the base model; what it takes beside them is counted, and the adapters that were not
used for longest are given up when it is more than they may have together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

from rave_mlx.checkpoint.adapters import put_on, twin
from rave_mlx.convert.adapters import open_adapter
from rave_mlx.errors import RaveError
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.generation.turns import COMPUTING
from rave_mlx.models.lmm import LMM
from rave_mlx.serve.errors import ApiError


class ServedModel:
    """A model that is loaded, and what writes its answers.

    Attributes:
        name: what it is asked for by.
        lmm: the model.
        scheduler: stepped by the model thread alone.
        nbytes: of what it does not share with the base model.
        users: requests that need it now.
        used: when it was last asked for (`time.monotonic`).
    """

    def __init__(self, name: str, lmm: LMM, rows: int, prefix_bytes: int | None, nbytes: int = 0):
        self.name, self.lmm, self.nbytes = name, lmm, nbytes
        self._rows, self._prefix_bytes = rows, prefix_bytes
        self.scheduler = self._new_scheduler()
        self.users, self.used = 0, 0.0

    def start_anew(self) -> None:
        """Give up all answers and everything that is kept of prompts."""
        self.scheduler = self._new_scheduler()

    def _new_scheduler(self) -> Scheduler:
        return Scheduler(self.lmm, rows=self._rows, prefix_bytes=self._prefix_bytes)


class Shelf:
    """The models by name. Threads may share it.

    Args:
        name: of the base model.
        lmm: the base model.
        adapters: folders by name.
        adapter_bytes: what the loaded adapters may take together.
        rows, prefix_bytes: of the schedulers.

    Attributes:
        created: when it was made, seconds since 1970.
    """

    def __init__(
        self,
        name: str,
        lmm: LMM,
        *,
        adapters: Mapping[str, str] | None = None,
        adapter_bytes: int = 2 << 30,
        rows: int = 8,
        prefix_bytes: int | None = None,
    ):
        self._rows, self._prefix_bytes, self._most = rows, prefix_bytes, adapter_bytes
        self.base = ServedModel(name, lmm, rows, prefix_bytes)
        self._folders = {f"{name}:{adapter}": folder for adapter, folder in (adapters or {}).items()}
        self._loaded: dict[str, ServedModel] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self.created = int(time.time())

    @property
    def names(self) -> list[str]:
        """What can be asked for: the base model first."""
        return [self.base.name, *self._folders]

    @property
    def loaded(self) -> list[ServedModel]:
        """The models that are in memory."""
        with self._lock:
            return [self.base, *self._loaded.values()]

    def check(self, name: str | None) -> str:
        """The model that a request means.

        Raises:
            ApiError: for one that there is not (404).
        """
        if name is None:
            return self.base.name
        if name not in self.names:
            raise ApiError(
                404, f"there is no model {name[:100]!r} here; there are: {', '.join(self.names)}",
                param="model", code="model_not_found",
            )  # fmt: skip
        return name

    def open(self, name: str) -> ServedModel:
        """A model, loaded if need be; `give_back` it when its answers are written.

        Raises:
            ApiError: for an adapter that does not open (500), or for which there is no memory (503).
        """
        found = self._known(name)
        if found is None:
            with self._loading:  # one after the other: two requests for one adapter load it once
                found = self._known(name) or self._load(name)
        return found

    def give_back(self, model: ServedModel) -> None:
        """A request does not need a model any more."""
        with self._lock:
            model.users -= 1

    def _known(self, name: str) -> ServedModel | None:
        """A model that is in memory."""
        with self._lock:
            found = self.base if name == self.base.name else self._loaded.get(name)
            if found is not None:
                found.users, found.used = found.users + 1, time.monotonic()
            return found

    def _load(self, name: str) -> ServedModel:
        """Put an adapter on the base model's weights."""
        folder, base = self._folders[name], self.base.lmm
        assert base.path is not None
        try:
            with COMPUTING:
                config, weights = open_adapter(folder, base.path)
                lmm = put_on(twin(base), config, weights, Path(folder))
        except RaveError as error:
            raise ApiError(500, f"the adapter of {name} does not open: {error}", code="adapter_failed") from None
        shared = {id(array) for array in base.named_weights().values()}
        nbytes = sum(x.nbytes for x in lmm.named_weights().values() if id(x) not in shared)
        with self._lock:
            self._make_room(nbytes, name)
            model = ServedModel(name, lmm, self._rows, self._prefix_bytes, nbytes)
            model.users, model.used = 1, time.monotonic()
            self._loaded[name] = model
        return model

    def _make_room(self, nbytes: int, name: str) -> None:
        """Give up adapters that nobody uses, the longest unused first, until a new one fits."""
        if nbytes > self._most:
            raise ApiError(
                503, f"{name} takes {nbytes >> 20} MiB, adapters may take {self._most >> 20} MiB; raise "
                "--adapter-memory", code="adapter_too_large",
            )  # fmt: skip
        idle = sorted((m for m in self._loaded.values() if not m.users), key=lambda model: model.used)
        while sum(m.nbytes for m in self._loaded.values()) + nbytes > self._most:
            if not idle:
                raise ApiError(
                    503, f"no memory for {name}: the adapters in use take it; try again later", code="adapters_busy",
                    headers={"Retry-After": "5"},
                )  # fmt: skip
            del self._loaded[idle.pop(0).name]
