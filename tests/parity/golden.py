"""transformers' models of the cases in tests/families, and their golden logits (`golden.py [CASE ...]` writes them)."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
import transformers
from families import CONVERSATIONS, GOLDEN, Case, cases, draw, kept_positions, write_files
from safetensors.numpy import save_file

import rave_mlx


def hf_model(case: Case) -> torch.nn.Module:
    """The transformers model of a case, in float32."""
    kind = case.config["model_type"]
    config = transformers.AutoConfig.for_model(**case.config)
    config._attn_implementation = "eager"
    if case.hf_class is not None:
        model = getattr(transformers, case.hf_class)(config)
    elif kind in transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        model = transformers.AutoModelForImageTextToText.from_config(config)
    else:
        model = transformers.AutoModelForCausalLM.from_config(config)
    model = model.float().eval()
    with torch.no_grad():
        for name, parameter in stored(model).items():
            parameter.copy_(torch.from_numpy(draw(name, parameter.shape)))
    model.tie_weights()
    return model


def stored(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a checkpoint of the model holds by name: its parameters, and the buffers that are saved with them."""
    saved = model.state_dict()
    return dict(model.named_parameters()) | {name: x for name, x in model.named_buffers() if name in saved}


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a checkpoint of the model holds."""
    return {name: tuple(tensor.shape) for name, tensor in stored(model).items()}


def checkpoint(case: Case, model: torch.nn.Module, folder: Path) -> Path:
    """The model's checkpoint under its parameters' names."""
    write_files(case, folder, case.config)
    save_file({n: draw(n, s) for n, s in shapes(model).items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def batch(case: Case, prompts) -> dict[str, torch.Tensor]:
    """Inputs of transformers for prompts, padded on the left."""
    length = max(map(len, prompts))
    ids = np.stack([np.pad(p.ids[0], (length - len(p), 0)) for p in prompts]).astype(np.int64)
    mask = np.stack([np.arange(length) >= length - len(p) for p in prompts]).astype(np.int64)
    inputs = {"input_ids": ids, "attention_mask": mask, **case.hf_inputs(prompts)}
    if "image_grid_thw" in inputs:
        visual = [np.pad(p.token_map.visual, (length - len(p), 0)) for p in prompts]
        inputs["mm_token_type_ids"] = np.stack(visual).astype(np.int64)
    return {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in inputs.items()}


@torch.no_grad()
def hf_logits(case: Case, model: torch.nn.Module, prompts) -> np.ndarray:
    """Logits (B, L, vocab) of transformers."""
    return model(**batch(case, prompts)).logits.float().numpy()


def make(case: Case) -> dict[str, np.ndarray]:
    """What the golden file of a case holds."""
    model = hf_model(case)
    with tempfile.TemporaryDirectory() as folder:
        lmm = rave_mlx.load(checkpoint(case, model, Path(folder)))
    stored = {"shapes": np.array(json.dumps(shapes(model)))}
    for name in case.conversations:
        prompt = lmm.prepare(CONVERSATIONS[name])
        stored[name] = hf_logits(case, model, [prompt])[0, kept_positions(len(prompt))]
    return stored


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name in sys.argv[1:] or cases():
        np.savez_compressed(GOLDEN / f"{name}.npz", **make(cases()[name]))
        print(name)
