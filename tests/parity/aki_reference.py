"""An AKI to compare with: SigLIP and Phi-3 of transformers, and what lies between and around them, in torch.

The resampler follows Flamingo's description (arXiv 2204.14198, section 3.1 and appendix A.1.1), the mask the formula of
AKI's paper, written in NumPy. Modules are nested so that parameters have the names of the released checkpoint.
`aki_reference.py` writes the golden file.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
import transformers
from families import CONVERSATIONS, GOLDEN, Case, draw, kept_positions, write_files
from families.aki import CASE
from PIL import Image
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from torch import nn

SYSTEM = (
    "<|system|>\nA chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions.<|end|>\n"
)


class CrossAttention(nn.Module):
    """Queries from the latents; keys and values from the features and the latents."""

    def __init__(self, width: int, heads: int = 8, head_width: int = 64):
        super().__init__()
        self.heads = heads
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width, bias=False)

    def forward(self, latents: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        latents = self.norm_latents(latents)
        context = torch.cat([self.norm_media(features), latents])
        keys, values = self.to_kv(context).split(self.to_kv.out_features // 2, dim=-1)
        heads = [x.unflatten(-1, (self.heads, -1)).transpose(0, 1) for x in (self.to_q(latents), keys, values)]
        scores = heads[0] @ heads[1].mT / math.sqrt(heads[0].shape[-1])
        return self.to_out((scores.softmax(-1) @ heads[2]).transpose(0, 1).flatten(-2))


class Resampler(nn.Module):
    """Six rounds of attention and a feed-forward, each added to the latents; a norm; a projection."""

    def __init__(self, width: int, output: int, latents: int, depth: int = 6):
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(latents, width))
        self.layers = nn.ModuleList()
        for _ in range(depth):
            wide = 4 * width
            feed = [
                nn.LayerNorm(width),
                nn.Linear(width, wide, bias=False),
                nn.GELU(),
                nn.Linear(wide, width, bias=False),
            ]
            self.layers.append(nn.ModuleList([CrossAttention(width), nn.Sequential(*feed)]))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, output)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        latents = self.latents
        for attention, feed in self.layers:
            latents = latents + attention(latents, features)
            latents = latents + feed(latents)
        return self.projection(self.norm(latents))


class LanguageModel(nn.Module):
    """Phi-3 whose vocabulary goes on in second tensors after `first` tokens, and whose head has a bias."""

    def __init__(self, config: dict, first: int, added: int = 2):
        super().__init__()
        self.model = transformers.Phi3Model(transformers.Phi3Config(**config, attn_implementation="eager"))
        width = config["hidden_size"]
        self.model.embed_tokens.additional_embedding = nn.Embedding(added, width)
        self.lm_head = nn.Linear(width, config["vocab_size"])
        self.lm_head.additional_fc = nn.Linear(width, added)
        self.first = first

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        table = self.model.embed_tokens
        return torch.cat([table.weight[: self.first], table.additional_embedding.weight])[ids]

    def forward(self, x: torch.Tensor, visible: np.ndarray) -> torch.Tensor:
        bias = torch.zeros(visible.shape).masked_fill(~torch.from_numpy(visible), torch.finfo(torch.float32).min)
        hidden = self.model(inputs_embeds=x[None], attention_mask=bias[None, None]).last_hidden_state[0]
        return torch.cat([self.lm_head(hidden)[:, : self.first], self.lm_head.additional_fc(hidden)], dim=-1)


class Aki(nn.Module):
    """The whole model; ids hold one <image> token an image."""

    def __init__(self, config: dict):
        super().__init__()
        vision, text = config["vision_config"], config["text_config"]
        settings = {k: v for k, v in vision.items() if k != "model_type"}
        tower = transformers.SiglipVisionConfig(**settings, attn_implementation="eager")
        self.vision_encoder = transformers.SiglipVisionModel(tower)
        self.vision_tokenizer = Resampler(vision["hidden_size"], text["hidden_size"], config["num_vision_tokens"])
        self.lang_model = LanguageModel(
            {k: v for k, v in text.items() if k != "model_type"}, config["initial_tokenizer_len"]
        )
        self.side, self.tokens = vision["image_size"], config["num_vision_tokens"]
        self.image, self.assistant = config["initial_tokenizer_len"], 273

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """(1, 3, side, side): stretched by Pillow's bicubic filter, scaled to [-1, 1]."""
        levels = np.asarray(image.convert("RGB").resize((self.side, self.side), Image.Resampling.BICUBIC))
        return torch.from_numpy((levels.astype(np.float32) / 255 - 0.5) / 0.5).permute(2, 0, 1)[None]

    @torch.no_grad()
    def forward(self, ids: list[int], images: list[Image.Image]) -> np.ndarray:
        """Scores (L, vocabulary) of every token after an image token has become its visual tokens."""
        shown = iter(images)
        parts, owner = [], []
        for index in ids:
            if index == self.image:
                features = self.vision_encoder(self.pixels(next(shown))).last_hidden_state[0]
                parts.append(self.vision_tokenizer(features))
                owner += [len(parts)] * self.tokens
            else:
                parts.append(self.lang_model.embed(torch.tensor([index])))
                owner.append(-1 if index == self.assistant else 0)
        return self.lang_model(torch.cat(parts), visible(np.array(owner))).numpy()


def visible(owner: np.ndarray) -> np.ndarray:
    """What sees what: `owner` is a number of its own for the tokens of each image, -1 for <|assistant|>, else 0.

    M_ij of the paper for an image at [s, s + n) whose question ends with <|assistant|> at e - 1: j <= i, or s <= i <
    s + n <= j < e.
    """
    mask = np.tril(np.ones((len(owner), len(owner)), bool))
    for image in set(owner[owner > 0].tolist()):
        s, n = int(np.argmax(owner == image)), int((owner == image).sum())
        answers = np.flatnonzero(owner[s + n :] == -1)
        e = s + n + int(answers[0]) + 1 if answers.size else s + n
        mask[s : s + n, s + n : e] = True
    return mask


def prompt(tokenizer: Path, messages: list[dict], *, answer: str = "") -> tuple[list[int], list[Image.Image]]:
    """Ids and images of a conversation, written as in the authors' evaluation."""
    text, images = "<s>" + SYSTEM, []
    for message in messages:
        parts = message["content"]
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        images += [part["image"] for part in parts if part["type"] == "image"]
        text += f"<|{message['role']}|>\n"
        text += "".join("<image>\n" if part["type"] == "image" else part["text"] for part in parts) + "<|end|>\n"
    core = Tokenizer.from_file(str(tokenizer))
    return core.encode(text + "<|assistant|>\n" + answer, add_special_tokens=False).ids, images


def model(case: Case = CASE) -> Aki:
    """The model of a case with weights drawn by name."""
    aki = Aki(case.config).float().eval()
    with torch.no_grad():
        for name, parameter in aki.named_parameters():
            parameter.copy_(torch.from_numpy(draw(name, parameter.shape)))
    return aki


def write(folder: Path, aki: Aki, case: Case = CASE, tensors: dict[str, np.ndarray] | None = None) -> Path:
    """Its checkpoint, without a chat template and without settings of an image processor, as released."""
    write_files(case, folder, case.config)
    (folder / "chat_template.jinja").unlink()
    stored = {name: parameter.detach().numpy() for name, parameter in aki.named_parameters()}
    save_file(stored if tensors is None else tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


if __name__ == "__main__":
    import tempfile

    aki = model()
    shapes = {name: tuple(parameter.shape) for name, parameter in aki.named_parameters()}
    stored = {"shapes": np.array(json.dumps(shapes))}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = write(Path(folder), aki) / "tokenizer.json"
        for name in CASE.conversations:
            logits = aki(*prompt(tokenizer, CONVERSATIONS[name]))
            stored[name] = logits[kept_positions(len(logits))]
    np.savez_compressed(GOLDEN / "aki.npz", **stored)
