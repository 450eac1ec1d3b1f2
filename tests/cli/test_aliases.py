"""Options of other programs: each leads to an option that exists, and none of ours is taken away."""

from __future__ import annotations

import pytest
import typer
from command import rave, rave_process

from rave_mlx.cli.aliases import DIFFERENT, SAME, translate
from rave_mlx.cli.main import app
from rave_mlx.errors import UsageError


def options() -> dict[str, set[str]]:
    """The options of every command, as typer has them."""
    commands = typer.main.get_command(app).commands
    return {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in commands.items()
    }


OPTIONS = options()


@pytest.mark.parametrize(("command", "alias"), [(c, a) for c, table in SAME.items() for a in table])
def test_an_alias_leads_to_an_option(command, alias):
    assert alias not in OPTIONS[command]
    assert SAME[command][alias] in OPTIONS[command]
    assert translate([command, alias, "1"]) == [command, SAME[command][alias], "1"]
    assert translate([command, f"{alias}=a=b"]) == [command, f"{SAME[command][alias]}=a=b"]


@pytest.mark.parametrize(("command", "name"), [(c, n) for c, table in DIFFERENT.items() for n in table])
def test_an_option_with_another_meaning_is_explained(command, name):
    if (command, name) not in (("train", "--train"), ("convert", "-q")):
        assert name not in OPTIONS[command]
    with pytest.raises(UsageError, match=rf"^{command} has no {name}: "):
        translate([command, name])
    words = DIFFERENT[command][name].replace(",", " ").replace(";", " ").split()
    for word in words:
        if word.startswith("--"):
            assert word in OPTIONS[command], f"{command} {name} sends to {word}"


def test_our_own_options_stay():
    arguments = ["train", "--train", "decoder", "--steps", "3", "--", "--iters"]
    assert translate(arguments) == arguments
    assert translate([]) == []
    assert translate(["--version"]) == ["--version"]


def test_an_alias_works_in_a_process():
    done = rave_process("chat", "--prompt", "hi", "--temp", "0", "--max-new-tokens", "2")
    assert done.returncode == 0, done.stderr
    done = rave("convert", "--hf-path", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "rave-mlx convert SOURCE OUT" in done.stderr
