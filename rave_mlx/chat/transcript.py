"""A conversation as a file: chat messages in the OpenAI form, images embedded as PNG.

The images are the resized ones that the model saw, rebuilt from their patches to the last bit, so that a loaded
conversation has the same tokens (and the same image digests) as the saved one.
"""

from __future__ import annotations

import base64
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rave_mlx.chat.session import Session
from rave_mlx.config import ImageConfig, Images
from rave_mlx.errors import PromptError
from rave_mlx.inputs.images.patch_order import in_reading_order
from rave_mlx.inputs.images.preprocess import ImagePatches
from rave_mlx.inputs.prompt.message import ImagePart, Message, TextPart
from rave_mlx.inputs.prompt.parse_messages import read_messages

FORMAT = 1
"""Version of the file's layout."""


def save_transcript(session: Session, file: Path) -> None:
    """Write the conversation of `session`; the file is replaced in one step.

    Raises:
        PromptError: when the file cannot be written.
    """
    config = session.lmm.config.image
    messages = [_write(message, config) for message in session.messages]
    text = json.dumps({"format": FORMAT, "image_tokens": _largest(session), "messages": messages}, ensure_ascii=False)
    try:
        # Beside its place, since only within a file system is a rename one step.
        handle, part = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        Path(part).replace(file)
    except OSError as error:
        raise PromptError(f"{file}: cannot be written ({error.strerror}); choose another place") from None


def load_transcript(session: Session, file: Path) -> None:
    """Replace the conversation of `session` by a saved one. On any error the session stays as it was.

    Raises:
        PromptError: when the file is missing or is not a saved conversation.
        ImageError: when an image in it is damaged.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PromptError(f"{file}: cannot be read ({error.strerror}); check the name") from None
    except ValueError:
        raise PromptError(f"{file}: not a saved conversation; give a file written by /save") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT or not data.get("messages"):
        raise PromptError(f"{file}: not a saved conversation; give a file written by /save")
    messages = read_messages(data["messages"], session.lmm.config.image, data.get("image_tokens"))
    session.resume(messages)


def _largest(session: Session) -> int | None:
    """A token budget that leaves every image of the conversation at its size."""
    sizes = [p.patches.tokens for m in session.messages for p in m.parts if isinstance(p, ImagePart)]
    return max(sizes, default=None)


def _write(message: Message, config: Images | None) -> dict[str, Any]:
    """A message in the OpenAI form; a plain one keeps its content as one string."""
    if message.plain:
        return {"role": message.role, "content": "".join(p.text for p in message.parts if isinstance(p, TextPart))}
    content = [_write_part(part, config) for part in message.parts]
    return {"role": message.role, "content": content}


def _write_part(part: TextPart | ImagePart, config: Images | None) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    assert config is not None
    return {"type": "image_url", "image_url": {"url": _data_url(part.patches, config)}}


def _data_url(patches: ImagePatches, config: Images) -> str:
    buffer = io.BytesIO()
    to_image(patches, config).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def to_image(patches: ImagePatches, config: Images) -> Image.Image:
    """The RGB image that gives `patches` again, exactly: what was kept, or normalisation undone and rounded."""
    if patches.original is not None:
        return patches.original
    assert isinstance(config, ImageConfig)
    _, rows, columns = patches.grid
    side, frames = config.patch_size, config.temporal_patch_size
    cut = patches.pixels.reshape(rows * columns, len(config.mean), frames, side, side)[:, :, 0]
    grid = in_reading_order(cut, rows, columns, config.merge_size)
    pixels = grid.transpose(0, 3, 1, 4, 2).reshape(rows * side, columns * side, -1)
    levels = (pixels * np.array(config.std) + np.array(config.mean)) * 255
    return Image.fromarray(np.rint(levels).astype(np.uint8))
