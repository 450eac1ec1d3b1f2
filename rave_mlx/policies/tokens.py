"""What policies know about the keys of a layer, and state that grows, shrinks and dies with them."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

_STEP = 256
"""Keys for which room is made at a time, so that a written token seldom moves the arrays."""


class Tokens:
    """What the keys of one layer are (role, image, position), on the host. B sequences, K keys.

    Args:
        role: (B, K) values of `prompt.message.Role`; -1 for padding.
        image: (B, K) index of the image a visual token belongs to, -1 for the others.
        positions: (B, 3, K) rotary positions.
        shift: as the attribute.

    Attributes:
        shift: how many positions earlier than in the prompt the next token stands (after pruning).
    """

    def __init__(
        self, role: NDArray[np.int8], image: NDArray[np.int32], positions: NDArray[np.int32], shift: int = 0
    ) -> None:
        self._role, self._image, self._positions = role, image, positions
        self._length = int(role.shape[1])
        self.shift = shift
        self._marks: dict[str, mx.array] = {}

    @classmethod
    def empty(cls, batch: int = 1) -> Tokens:
        """No keys yet."""
        return cls(np.zeros((batch, 0), np.int8), np.zeros((batch, 0), np.int32), np.zeros((batch, 3, 0), np.int32))

    def __len__(self) -> int:
        return self._length

    @property
    def role(self) -> NDArray[np.int8]:
        """(B, K) values of `prompt.message.Role`; -1 for padding."""
        return self._role[:, : self._length]

    @property
    def image(self) -> NDArray[np.int32]:
        """(B, K) index of the image a visual token belongs to, -1 for the others."""
        return self._image[:, : self._length]

    @property
    def positions(self) -> NDArray[np.int32]:
        """(B, 3, K) rotary positions."""
        return self._positions[..., : self._length]

    @property
    def visual(self) -> NDArray[np.bool_]:
        """(B, K) marks of visual keys."""
        return self.image >= 0

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(B, K) marks of keys that are not padding."""
        return self.role >= 0

    def marks(self, kind: str) -> mx.array:
        """(B, K) marks on the device: "visual", "text" (neither visual nor padding) or "valid"."""
        if kind not in self._marks:
            chosen = {"visual": self.visual, "text": self.valid & ~self.visual, "valid": self.valid}[kind]
            self._marks[kind] = mx.array(chosen)
        return self._marks[kind]

    def count_visual(self, keys: int) -> mx.array:
        """(B,) how many of the first `keys` keys are visual, float32, on the device."""
        name = f"count {keys}"
        if name not in self._marks:
            self._marks[name] = mx.array(self.visual[:, :keys].sum(axis=1).astype(np.float32))
        return self._marks[name]

    def extend(self, role: NDArray[np.int8], image: NDArray[np.int32], positions: NDArray[np.int32]) -> None:
        """Add n new tokens; the first ones decide B.

        Args:
            role: (B, n) as the property.
            image: (B, n) as the property.
            positions: (B, 3, n) rotary positions in the prompt; `shift` is taken off here.
        """
        start, stop = self._length, self._length + int(role.shape[1])
        if not start:
            self._role, self._image, self._positions = role.copy(), image.copy(), positions - self.shift
        else:
            if stop > self._role.shape[1]:
                more = [(0, -(-stop // _STEP) * _STEP - start)]
                self._role, self._image = np.pad(self.role, [(0, 0), *more]), np.pad(self.image, [(0, 0), *more])
                self._positions = np.pad(self.positions, [(0, 0), (0, 0), *more])
            self._role[:, start:stop] = role
            self._image[:, start:stop] = image
            self._positions[..., start:stop] = positions - self.shift
        self._length = stop
        self._marks.clear()

    def trim(self, length: int) -> None:
        """Forget every key from `length` on."""
        self._length = max(0, min(length, self._length))
        self._marks.clear()

    def take(self, index: NDArray[np.int64], positions: NDArray[np.int32] | None, shift: int) -> Tokens:
        """A copy with only the keys that pruning keeps.

        Args:
            index: (B, n) indices of those keys.
            positions: (B, 3, n) their rotary positions from here on; None keeps the ones they have.
            shift: by how many positions more the tokens that follow stand earlier.
        """
        moved = np.take_along_axis(self.positions, index[:, None], axis=2) if positions is None else positions
        role = np.take_along_axis(self.role, index, axis=1)
        image = np.take_along_axis(self.image, index, axis=1)
        return Tokens(role, image, moved, self.shift + shift)


class KeyRows:
    """An array with a row for each key, (B, K, ...), that may lag behind: rows never written are zero."""

    def __init__(self) -> None:
        self._array: mx.array | None = None
        self.length = 0

    def write(self, start: int, new: mx.array) -> None:
        """Set rows from key `start` on to `new` (B, n, ...)."""
        stop = start + new.shape[1]
        room = -(-stop // _STEP) * _STEP
        if self._array is None:
            self._array = mx.zeros((new.shape[0], room, *new.shape[2:]), new.dtype)
        elif room > self._array.shape[1]:
            self._array = self._padded(room)
        self._array[:, start:stop] = new
        self.length = max(self.length, stop)

    def upto(self, keys: int) -> mx.array:
        """Rows of the first `keys` keys.

        Raises:
            ValueError: when nothing was ever written.
        """
        if self._array is None:
            raise ValueError("no rows were written")
        if keys > self._array.shape[1]:
            self._array = self._padded(-(-keys // _STEP) * _STEP)
        return self._array[:, :keys]

    @property
    def arrays(self) -> list[mx.array]:
        """The stored array, for evaluation."""
        return [] if self._array is None else [self._array]

    def trim(self, length: int) -> None:
        """Forget every row from `length` on."""
        if self._array is not None and length < self.length:
            self._array = self._array[:, :length]
            self.length = length

    def _padded(self, room: int) -> mx.array:
        assert self._array is not None
        more = room - self._array.shape[1]
        return mx.pad(self._array, [(0, 0), (0, more)] + [(0, 0)] * (self._array.ndim - 2))
