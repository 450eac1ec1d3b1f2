"""The network of a line reader: a convolutional backbone, and a small encoder along the line.

The shape of PP-OCRv6's small recogniser (PaddleOCR): a backbone of depthwise and pointwise convolutions whose strides
shrink the height only (after PP-LCNet, arXiv 2109.15099), global mixing along the line by two transformer layers
(after SVTR, arXiv 2205.00159), and a score of every character for each eight pixels of width, to be read by
connectionist temporal classification (CTC). Batch normalization is part of the convolutions' weights.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.models.line_reader.config import Block, LineReaderConfig

_MIXER_EPS, _LAST_EPS = 1e-5, 1e-6
"""Of layer norms in the encoder and behind it."""
_ERF = (1.0, 0.0705230784, 0.0422820123, 0.0092705272, 0.0001520143, 0.0002765672, 0.0000430638)
_SEEN = 3
"""Half the width of the convolution before the encoder."""


class LineReaderNetwork(nn.Module):
    """Pictures of lines in, scores of characters out.

    Args:
        config: its shape.
    """

    def __init__(self, config: LineReaderConfig):
        super().__init__()
        self.stem = _Stem(config.stem)
        self.blocks = [_Block(block) for block in config.blocks]
        self.mixer = _Mixer(config.blocks[-1].out, config)
        self.head = nn.Linear(config.mixer, len(config.characters) + 1)

    def __call__(self, pictures: mx.array) -> mx.array:
        """Scores before softmax, (B, W / 8, 1 + characters); class 0 is none.

        Args:
            pictures: (B, height, W, 3) from -1 for black to 1 for white, red first; W a multiple of 8.
        """
        x = self.stem(pictures)
        for block in self.blocks:
            x = block(x)
        batch, _, width, channels = x.shape
        pairs = x.reshape(batch, -1, width // 2, 2, channels)
        scores: mx.array = self.head(self.mixer(pairs.mean(axis=(1, 3))))
        return scores


class _Stem(nn.Module):
    """Two ways to a quarter of the size, one of small convolutions and one that keeps the darkest, joined."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.inner = [nn.Conv2d(width, width // 2, 2), nn.Conv2d(width // 2, width, 2)]
        self.joined = nn.Conv2d(2 * width, width, 3, stride=2, padding=1)
        self.wider = nn.Linear(width, 2 * width)

    def __call__(self, x: mx.array) -> mx.array:
        x = nn.relu(self.first(x))
        fine = x
        for convolution in self.inner:
            fine = nn.relu(convolution(_after(fine)))
        # Of four pixels the largest; what is beyond the edge counts as 0, the least that there is behind a ReLU.
        padded = _after(x)
        columns = mx.maximum(padded[:, :, :-1], padded[:, :, 1:])
        largest = mx.maximum(columns[:, :-1], columns[:, 1:])
        joined = nn.relu(self.joined(mx.concatenate([largest, fine], axis=-1)))
        out: mx.array = nn.relu(self.wider(joined))
        return out


def _after(x: mx.array) -> mx.array:
    """One more row below and one more column to the right, of zeros."""
    return mx.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])


class _Block(nn.Module):
    """A depthwise convolution, weights of channels, and two pointwise layers."""

    def __init__(self, block: Block):
        super().__init__()
        self.spatial = _Depthwise(block.width, 3, 3, block.stride)
        self.squeeze = _Squeeze(block.width) if block.squeeze else None
        self.up = nn.Linear(block.width, 2 * block.width)
        self.down = nn.Linear(2 * block.width, block.out)
        self._adds = block.stride == 1 and block.width == block.out

    def __call__(self, x: mx.array) -> mx.array:
        x = self.spatial(x)
        if self.squeeze is not None:
            x = x * self.squeeze(x)
        y = self.down(_gelu(self.up(x)))
        return x + y if self._adds else y


def _gelu(x: mx.array) -> mx.array:
    """The Gaussian error linear unit to within 1e-6: a polynomial in place of erf, on a CPU six times as fast.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.28.
    """
    size = mx.abs(x)
    scaled = size * 0.5**0.5
    power: mx.array | float = _ERF[-1]
    for coefficient in _ERF[-2::-1]:
        power = power * scaled + coefficient
    for _ in range(4):
        power = power * power
    return mx.maximum(x, 0) - size * (0.5 / power)


class _Depthwise(nn.Module):
    """Each channel convolved by itself; as sums of shifted pictures, on a CPU about three times as fast as conv2d."""

    def __init__(self, width: int, high: int, wide: int, stride: int = 1):
        super().__init__()
        self.weight, self.bias = mx.zeros((high, wide, width)), mx.zeros((width,))
        self._stride = stride

    def __call__(self, x: mx.array) -> mx.array:
        high, wide, _ = self.weight.shape
        rows, columns = x.shape[1:3]
        padded = mx.pad(x, [(0, 0), (high // 2, high // 2), (wide // 2, wide // 2), (0, 0)])
        out = self.bias
        for row in range(high):
            for column in range(wide):
                shifted = padded[:, row : row + rows : self._stride, column : column + columns]
                out = out + shifted * self.weight[row, column]
        return out


class _Squeeze(nn.Module):
    """A weight for each channel, from its mean over the whole line (squeeze and excitation)."""

    def __init__(self, width: int):
        super().__init__()
        self.down, self.up = nn.Linear(width, width // 4), nn.Linear(width // 4, width)

    def __call__(self, x: mx.array) -> mx.array:
        means = x.mean(axis=(1, 2), keepdims=True)
        return mx.clip(self.up(nn.relu(self.down(means))) / 6 + 0.5, 0, 1)


class _Mixer(nn.Module):
    """What a place of the line shows, and what the other places make of it."""

    def __init__(self, width: int, config: LineReaderConfig):
        super().__init__()
        self.short, self.into = nn.Linear(width, config.mixer), nn.Linear(width, config.mixer)
        self.near = _Depthwise(config.mixer, 1, 2 * _SEEN + 1)
        self.layers = [_Layer(config.mixer, config.heads) for _ in range(config.layers)]
        self.norm = nn.LayerNorm(config.mixer, eps=_LAST_EPS)

    def __call__(self, x: mx.array) -> mx.array:
        short, y = nn.silu(self.short(x)), nn.silu(self.into(x))
        y = y + nn.silu(self.near(y[:, None])[:, 0])
        for layer in self.layers:
            y = layer(y)
        mixed: mx.array = self.norm(y) + short
        return mixed


class _Layer(nn.Module):
    """A transformer layer, normalized first, without positions."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=_MIXER_EPS), nn.LayerNorm(width, eps=_MIXER_EPS)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self._heads = heads

    def __call__(self, x: mx.array) -> mx.array:
        batch, length, width = x.shape
        size = width // self._heads
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, self._heads, size).transpose(2, 0, 3, 1, 4)
        seen = mx.fast.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], scale=size**-0.5)
        x = x + self.out(seen.transpose(0, 2, 1, 3).reshape(batch, length, width))
        return x + self.down(nn.silu(self.up(self.norm2(x))))
