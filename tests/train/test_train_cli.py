"""`rave-mlx train` from the outside: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json

import pytest
from command import rave
from PIL import Image
from training import history, losses, result, train_cli, train_process, write_data, write_model

from rave_mlx import load
from rave_mlx.cli import main


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture
def here(capfd):
    """Runs the command in this process: its exit code, and what it said on stderr."""

    def call(*options):
        code = main.main(["train", *map(str, options)])
        return code, capfd.readouterr().err

    return call


def test_what_a_run_leaves_is_an_adapter(tmp_path, data, model):
    out = tmp_path / "out"
    done = train_process("--data", data, "--out", out, "--model", model, "--steps", 4, "--batch-size", 3, "--lr", 0.001,
                         "--save-every", 2, "--seed", 7, "--rank", 2, "--log", "csv")  # fmt: skip
    assert done.stdout == f"{out}\n"
    for expected in ("step 4/4: loss ", "step 2: validation loss ", " answers exact", "saved ", "peak memory"):
        assert expected in done.stderr
    assert "layer 2: gate bias " in done.stderr
    assert len(losses(out)) == 4
    assert (out / "log.csv").read_text().count("\n") == 1 + len(history(out))
    with Image.open(out / "curve.png") as image:
        image.load()
    assert len(json.loads((out / "gates.json").read_text())) == 3
    for adapter in (out, out / "best", out / "checkpoints" / "step-00000002"):
        lmm = load(model, adapter=adapter)
        assert lmm.config.gate is not None and not lmm.training
    asked = ("--image", data / "valid0.png", "--prompt", "Total?", "--max-tokens", 3)
    chat = rave("chat", "--model", model, "--adapter", out, *asked)
    assert chat.returncode == 0, chat.stderr


def test_an_adapter_of_another_base_is_refused(tmp_path, data, model):
    train_cli("--data", data, "--out", tmp_path / "out", "--model", model, "--steps", 1, "--rank", 2)
    done = rave("chat", "--adapter", tmp_path / "out", "--prompt", "Hello")
    assert done.returncode == 1
    assert done.stderr.startswith("rave-mlx: ") and "trained on another base model (fingerprint " in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "problem"),
    [
        (["--gate-only", "--lora-only"], 2, "--gate-only and --lora-only exclude each other"),
        (["--modules", "q_proj,w_proj"], 2, "no projection is called 'w_proj'; there are "),
        (["--train", "heart"], 2, "--train heart: 'heart' is not one of decoder, connector, vision"),
        (["--train", "vision=fast"], 2, "--train vision=fast: 'fast' is no learning rate"),
        (["--train", "decoder", "--lora-only"], 1, "needs no low-rank updates"),
        (["--lr", "-1"], 1, "learning rate -1.0 is not between 0 and 10"),
        (["--optimizer", "sgd"], 2, "'sgd' is not one of"),
    ],
)
def test_options_that_make_no_sense(tmp_path, data, model, here, options, code, problem):
    found, said = here("--data", data, "--out", tmp_path / "out", "--model", model, *options)
    assert found == code
    assert problem in said
    assert said.startswith("rave-mlx: ") and said.count("\n") == 1


def test_a_run_resumes_without_its_options(tmp_path, data, model, here, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.chdir(data.parent)
    options = ("--model", model, "--rank", 2, "--batch-size", 2, "--lr", 0.01, "--schedule", "constant", "--warmup", 0)
    begun = ("--data", data.name, "--out", out, *options, "--steps", 2, "--dropout", 0.1, "--log", "csv")
    assert here(*begun)[0] == 0
    monkeypatch.chdir(tmp_path)
    # From another folder, with nothing but where the run is; then with what may change.
    assert here("--resume", "--out", "out")[0] == 0
    assert here("--resume", "--out", out, "--steps", 4, "--save-every", 1, "--rank", 2)[0] == 0
    assert here(*begun[:-5], 4, *begun[-4:], "--out", tmp_path / "whole", "--data", data)[0] == 0
    assert result(out) == result(tmp_path / "whole") and losses(out) == losses(tmp_path / "whole")
    assert (out / "log.csv").read_text().count("\n") == 1 + len(history(out))
    # The options that were changed are the run's own from then on.
    assert here("--resume", "--out", out)[0] == 0 and len(losses(out)) == 4
    for given, problem in (
        (("--lr", 0.1), "--lr 0.1: the run in {} began with 0.01; leave --lr out"),
        (("--model", data), "--model "),
        (("--seed", 3), "--seed 3: the run in {} began with 0;"),
        (("--gate-only",), "--gate-only true: the run in {} began with false;"),
        (("--steps", 3), "4 steps are done, and 3 were asked for; raise --steps"),
    ):
        code, said = here("--resume", "--out", out, *given)
        assert code and problem.format(out) in said and said.count("\n") == 1
    assert "--data is missing" in here("--resume", "--out", tmp_path / "none")[1]


def test_a_place_for_the_result_is_needed(data, model, here):
    assert "--out is missing" in here("--data", data, "--model", model)[1]


def test_bad_rows_are_named_and_can_be_left_out(tmp_path, model):
    folder = write_data(tmp_path / "data")
    with (folder / "train.jsonl").open("a") as stream:
        stream.write('{"messages": []}\n')
    options = ("--data", folder, "--out", tmp_path / "out", "--model", model, "--rank", 2, "--steps", 1)
    assert "train.jsonl, line 10: " in train_cli(*options, code=1).stderr
    assert "left out: train.jsonl, line 10: " in train_cli(*options, "--bad-rows", 1).stderr


def test_check_data_trains_nothing(tmp_path, data, model):
    done = train_cli("--data", data, "--out", tmp_path / "out", "--model", model, "--check-data")
    assert "(train): 9 examples, 0 bad rows" in done.stdout and "(valid): 3 examples" in done.stdout
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["examples.png"]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.jsonl").write_text((data / "train.jsonl").read_text())
    done = train_cli("--data", tmp_path / "bad", "--out", tmp_path / "out2", "--model", model, "--check-data", code=1)
    assert "Traceback" not in done.stderr


def test_gates_alone(tmp_path, data, model):
    train_cli("--data", data, "--out", tmp_path / "out", "--model", model, "--gate-only", "--steps", 2)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["modules"] == [] and config["gate"]["rank"] == 14
    assert list(history(tmp_path / "out")[0]["rates"]) == ["gate"]


def test_a_connector_trained_whole_with_its_own_rate(tmp_path, data, model):
    out = tmp_path / "out"
    train_cli("--data", data, "--out", out, "--model", model, "--lora-only", "--train", "connector=1e-5", "--steps", 2,
              "--schedule", "constant", "--warmup", 0, "--rank", 2)  # fmt: skip
    assert history(out)[0]["rates"] == pytest.approx({"adapter": 2e-4, "connector": 1e-5})
    assert load(model, adapter=out).config.gate is None
