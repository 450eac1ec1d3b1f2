"""Options that people know from other programs, and what they are called here.

mlx-lm, mlx-vlm, ollama, peft and transformers have other names for the same things. Where ours means exactly that, the
other name is accepted; where the meaning differs, the error says which option of ours to look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rave_mlx.errors import UsageError

_MODEL = {"--hf-path": "--model", "--hf-repo": "--model", "--model-path": "--model", "--model-name": "--model"}
_ADAPTER = {"--adapter-path": "--adapter", "--lora-path": "--adapter", "--lora": "--adapter"}
_IMAGES = {"--images": "--image", "--image-path": "--image", "--img": "--image", "--max-image-tokens": "--image-tokens"}
_SAMPLING = {
    "--temp": "--temperature",
    "--max-new-tokens": "--max-tokens",
    "--num-predict": "--max-tokens",
    "--n-predict": "--max-tokens",
    "--topp": "--top-p",
    "--topk": "--top-k",
    "--repeat-penalty": "--repetition-penalty",
    "--system-prompt": "--system",
    "--instruction": "--prompt",
    "--question": "--prompt",
}
SAME: Mapping[str, Mapping[str, str]] = {
    "chat": {**_MODEL, **_ADAPTER, **_IMAGES, **_SAMPLING},
    "look": {**_MODEL, **_ADAPTER, **_IMAGES, "--max-new-tokens": "--max-tokens", "--question": "--prompt"},
    "evaluate": {**_MODEL, **_ADAPTER, "--tasks": "--task", "--output-path": "--out", "--output": "--out"},
    "train": {
        **_MODEL,
        "--iters": "--steps",
        "--max-steps": "--steps",
        "--learning-rate": "--lr",
        "--lora-rank": "--rank",
        "--lora-r": "--rank",
        "--lora-dropout": "--dropout",
        "--num-train-epochs": "--epochs",
        "--num-epochs": "--epochs",
        "--per-device-train-batch-size": "--batch-size",
        "--gradient-accumulation-steps": "--accumulate",
        "--grad-accumulation-steps": "--accumulate",
        "--steps-per-eval": "--eval-every",
        "--eval-steps": "--eval-every",
        "--save-steps": "--save-every",
        "--output-dir": "--out",
        "--output-path": "--out",
        "--adapter-path": "--out",
        "--dataset": "--data",
        "--max-grad-norm": "--clip",
        "--grad-clip": "--clip",
        "--target-modules": "--modules",
        "--lr-scheduler-type": "--schedule",
        "--warmup-steps": "--warmup",
        "--use-dora": "--dora",
        "--grad-checkpoint": "--checkpointing",
        "--gradient-checkpointing": "--checkpointing",
    },
    "fuse": {**_MODEL, **_ADAPTER, "--de-quantize": "--dequantize"},
    "export": {**_ADAPTER, "--de-quantize": "--dequantize"},
    "convert": {
        "--q-bits": "--quantize",
        "--bits": "--quantize",
        "--q-group-size": "--group-size",
        "--q-mode": "--mode",
        "--upload-repo": "--push",
        "--quant-predicate": "--recipe",
    },
}
"""By command: an option of another program, and ours with the same meaning and the same kind of value."""

_CONVERT_POSITIONS = "the checkpoint and the new directory are arguments: rave-mlx convert SOURCE OUT"
DIFFERENT: Mapping[str, Mapping[str, str]] = {
    "chat": {
        "--verbose": "statistics are in /stats, and with --json on every answer",
        "--stream": "answers stream always",
        "--resize-shape": "--image-tokens N limits how large an image is read",
        "--trust-remote-code": "nothing in a checkpoint is executed, so there is nothing to trust",
        "--kv-group-size": "groups are of 64 numbers, or 32 where 64 do not fit; --kv-bits alone says how many bits",
        "--quantized-kv-start": "keys and values are packed from the first token on",
    },
    "train": {
        "--verbose": "progress is shown always, and --log writes it to files",
        "--train": "give the part to train whole: decoder, connector or vision; gates and LoRA need no option",
        "--lora-alpha": "--scale is alpha divided by the rank (2.0 for alpha 16 and rank 8)",
        "--alpha": "--scale is alpha divided by the rank (2.0 for alpha 16 and rank 8)",
        "--num-layers": "--modules chooses projections; updates go to every layer",
        "--lora-layers": "--modules chooses projections; updates go to every layer",
        "--fine-tune-type": "LoRA is the default; --dora for DoRA, --gate-only for gates, --train PART for whole parts",
        "--val-batches": "the number is fixed; --eval-every says how often the held-out rows are read",
        "--max-seq-length": "rows are never cut: --max-tokens refuses longer ones and --image-tokens limits images",
        "--resume-adapter-file": "--resume goes on from the newest checkpoint in --out",
        "--mask-prompt": "only answers are trained on, always",
        "--apply-chat-template": "the model's chat template is always used",
    },
    "convert": {
        **dict.fromkeys(("--hf-path", "--mlx-path", "--model", "--output", "--out"), _CONVERT_POSITIONS),
        "-q": "--quantize 4",
        "--trust-remote-code": "nothing in a checkpoint is executed, so there is nothing to trust",
    },
    "fuse": {"--save-path": "the new directory is an argument: rave-mlx fuse --adapter DIR OUT"},
    "export": {"--mlx-path": "the directories are arguments: rave-mlx export SOURCE OUT"},
    "evaluate": {
        "--limit": "--pages limits generated tasks",
        "--verbose": "progress is shown always; --out writes every answer",
    },
}
"""By command: an option of another program that has no equal here, and what to do instead."""


def translate(arguments: Sequence[str]) -> list[str]:
    """Arguments of the command line with the options of other programs in this one's words.

    Args:
        arguments: without the program's name; the first that is no option is the command.

    Raises:
        UsageError: for an option whose meaning differs, with the one to use.
    """
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    same, different = SAME.get(command, {}), DIFFERENT.get(command, {})
    found: list[str] = []
    for index, argument in enumerate(arguments):
        if argument == "--":
            return [*found, *arguments[index:]]
        name, equals, value = argument.partition("=")
        if name in different and not _is_ours(command, name, arguments[index + 1 :]):
            raise UsageError(f"{command} has no {name}: {different[name]}")
        found.append(same.get(name, name) + equals + value)
    return found


def _is_ours(command: str, name: str, following: Sequence[str]) -> bool:
    """Whether an option that other programs have without a value is ours, which has one."""
    if (command, name) == ("convert", "-q"):
        return bool(following) and following[0].isdigit()
    return (command, name) == ("train", "--train") and bool(following) and not following[0].startswith("-")
