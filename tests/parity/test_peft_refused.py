"""Adapters of peft that this package does not read exactly are refused, and what is wrong with them is named."""

from __future__ import annotations

import json
import shutil

import mlx.core as mx
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import rave_mlx  # noqa: E402
from parity.peft_adapters import make  # noqa: E402
from rave_mlx.convert.adapters import import_peft  # noqa: E402
from rave_mlx.errors import ConfigError, ModelError  # noqa: E402

PREFIX = "base_model.model.model.layers.1.self_attn.q_proj."


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"), "qwen2", target_modules=["q_proj", "up_proj"])


@pytest.fixture
def adapter(made, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(made.adapter, tmp_path / "peft")


def set_keys(adapter, **keys):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def edit(adapter, change):
    file = adapter / "adapter_model.safetensors"
    tensors = dict(mx.load(str(file)))
    mx.eval(tensors)
    change(tensors)
    mx.save_safetensors(str(file), tensors, metadata={"format": "pt"})


SETTINGS = [
    *({"init_lora_weights": start} for start in ("pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "loftq")),
    *({"init_lora_weights": start} for start in ("lora_ga", "something_new")),
    {"alora_invocation_tokens": [1, 2]},
    {"arrow_config": {"top_k": 3}},
    {"kasa_config": {"beta": 1e-4}},
    {"layer_replication": [[0, 2], [1, 3]]},
    {"megatron_config": {"tensor_model_parallel_size": 2}},
    {"monteclora_config": {"num_samples": 8}},
    {"target_parameters": ["mlp.experts.gate_up_proj"]},
    {"use_bdlora": {"nblocks": 2}},
    {"use_qalora": True},
    {"enable_lora": [True, False, True]},
    {"bias": "everything"},
    {"a_setting_of_tomorrow": True},
    {"use_another_variant": {"strength": 0.5}},
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(map(str, next(iter(s.items())))))
def test_settings_are_refused_by_name(made, adapter, tmp_path, setting):
    set_keys(adapter, **setting)
    ((key, value),) = setting.items()
    with pytest.raises(ConfigError, match=rf"adapter_config.json: {key} .* is not supported") as caught:
        import_peft(adapter, made.base, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=key):
        rave_mlx.load(made.base, adapter=adapter)


@pytest.mark.parametrize("kind", ["IA3", "ADALORA", "LOHA", "VERA", "PROMPT_TUNING", "XLORA", None])
def test_other_kinds_are_refused_by_name(made, adapter, tmp_path, kind):
    set_keys(adapter, peft_type=kind)
    with pytest.raises(ConfigError, match=f"peft_type {kind!r} is not supported, only 'LORA'"):
        import_peft(adapter, made.base, tmp_path / "out")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"r": "four"}, "r should be int"),
        ({"r": 0}, "at least 1"),
        ({"lora_alpha": None, "r": 5}, "has rank 4, r and rank_pattern say 5"),
        ({"rank_pattern": {"q_proj": 2}}, r"q_proj.lora_A.weight has rank 4, r and rank_pattern say 2"),
        ({"rank_pattern": {"q_proj(": 2}}, "is not a regular expression"),
        ({"trainable_token_indices": [3, 3]}, "trainable_token_indices of the embedding: not distinct ids"),
        ({"use_dora": "yes"}, "use_dora should be bool"),
    ],
)
def test_settings_that_contradict_the_tensors_or_make_no_sense(made, adapter, tmp_path, keys, message):
    set_keys(adapter, **keys)
    with pytest.raises((ConfigError, ModelError), match=message):
        import_peft(adapter, made.base, tmp_path / "out")


def test_unset_settings_of_other_versions_are_harmless(made, adapter, tmp_path):
    set_keys(adapter, a_setting_of_tomorrow=None, another=False, lists=[], enable_lora=None, merge_weights=False)
    import_peft(adapter, made.base, tmp_path / "out")


def test_dora_on_the_embedding_is_refused(tmp_path):
    made = make(tmp_path, "llama", target_modules=["embed_tokens"], use_dora=True)
    with pytest.raises(ConfigError, match=r"use_dora True is not supported on the embedding \(model.embed_tokens\)"):
        import_peft(made.adapter, made.base, tmp_path / "out")


@pytest.mark.parametrize("gone", ["lora_A.weight", "lora_B.weight"])
def test_half_an_update_is_refused(made, adapter, tmp_path, gone):
    edit(adapter, lambda tensors: tensors.pop(PREFIX + gone))
    with pytest.raises(ModelError, match=rf"tensors are missing: {PREFIX}{gone}; the adapter is incomplete"):
        import_peft(adapter, made.base, tmp_path / "out")


@pytest.mark.parametrize(
    ("keys", "refused"),
    [
        ({}, True),
        ({"target_modules": r".*(q_proj|up_proj)"}, True),
        ({"target_modules": "all-linear"}, True),
        ({"layers_to_transform": [0, 2]}, False),
        ({"layers_to_transform": [0, 1, 2], "layers_pattern": "layers"}, True),
        ({"exclude_modules": ["layers.1.self_attn.q_proj"]}, False),
        ({"exclude_modules": r".*\.1\..*"}, False),
        ({"target_modules": ["up_proj", "layers.0.self_attn.q_proj", "layers.2.self_attn.q_proj"]}, False),
    ],
    ids=str,
)
def test_an_update_that_the_settings_name_may_not_be_missing(made, adapter, tmp_path, keys, refused):
    def both(tensors):
        del tensors[f"{PREFIX}lora_A.weight"], tensors[f"{PREFIX}lora_B.weight"]

    edit(adapter, both)
    set_keys(adapter, **keys)
    if refused:
        with pytest.raises(ModelError, match=rf"tensors are missing: .*{PREFIX}lora_A.weight"):
            import_peft(adapter, made.base, tmp_path / "out")
    else:
        # peft itself decides what belongs to such an adapter: it misses nothing.
        config = peft.LoraConfig.from_pretrained(adapter)
        assert not peft.tuners.tuners_utils.check_target_module_exists(config, "model.layers.1.self_attn.q_proj")
        import_peft(adapter, made.base, tmp_path / "out")


def test_missing_parts_of_saved_modules_and_dora_are_named(made, adapter, tmp_path):
    set_keys(adapter, modules_to_save=["lm_head", "norm"])
    with pytest.raises(ModelError, match=r"missing: base_model.model.lm_head.weight, .*layers.0.input_layernorm"):
        import_peft(adapter, made.base, tmp_path / "out")
    set_keys(adapter, modules_to_save=None, use_dora=True)
    with pytest.raises(ModelError, match=r"missing: .*lora_magnitude_vector"):
        import_peft(adapter, made.base, tmp_path / "out")
    set_keys(adapter, use_dora=False, trainable_token_indices=[1, 2])
    with pytest.raises(ModelError, match=r"missing: token_adapter.trainable_tokens_delta"):
        import_peft(adapter, made.base, tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.visual.blocks.0.attn.qkv.lora_A.weight",
        "base_model.model.score.weight",
        "base_model.model.model.embed_tokens.lora_A.weight",
        f"{PREFIX}lora_magnitude_vector",
        f"{PREFIX}lora_B.bias",
        f"{PREFIX}lora_A.default.weight",
        "base_model.model.model.layers.1.self_attn.q_proj.ia3_l",
    ],
)
def test_tensors_of_nothing_are_named(made, adapter, tmp_path, name):
    edit(adapter, lambda tensors: tensors.update({name: mx.zeros((4, 64))}))
    with pytest.raises(ModelError, match=rf"tensors of no projection or weight of the base model: {name};"):
        import_peft(adapter, made.base, tmp_path / "out")


def test_an_enlarged_vocabulary_is_refused(made, adapter, tmp_path):
    name = "base_model.model.model.embed_tokens.weight"
    edit(adapter, lambda tensors: tensors.update({name: mx.zeros((300, 64))}))
    with pytest.raises(ModelError, match=rf"{name} has shape \[300, 64\] instead of \[272, 64\].*enlarged"):
        import_peft(adapter, made.base, tmp_path / "out")


def test_pickled_and_absent_weights(made, adapter, tmp_path):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights \(adapter_model.bin\), which can run code"):
        import_peft(adapter, made.base, tmp_path / "out")
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(ModelError, match=r"no adapter_model.safetensors; the adapter is incomplete"):
        import_peft(adapter, made.base, tmp_path / "out")
    with pytest.raises(ModelError, match="no such adapter directory"):
        rave_mlx.load(made.base, adapter=tmp_path / "nothing")
