"""Consistency of the themes: their targets refer to their cases, their cases to contenders."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from benchmarks import data
from benchmarks.__main__ import ON_DEMAND, THEMES
from benchmarks.model import Settings, evaluate_target
from benchmarks.processes import contender_command, shell_command, torchrun_command
from benchmarks.themes.record import RECIPES
from components.data.format.shards import write_split
from components.params import Recipe
from components.paths import ROOT
from components.records.splits import Channels
from tests.conftest import make_images


@pytest.mark.parametrize("name", THEMES + ON_DEMAND)
def test_theme_has_targets_and_contenders_for_its_cases(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = tmp_path / "data"
    channels = Channels(mean=[80.0], std=[60.0])
    for split in ("train", "val", "test"):
        images = make_images(60, prefix=split)
        write_split(splits / split, split, images, ["a", "b", "c"], 1, channels)
    monkeypatch.setattr(data, "prepare_splits", lambda: splits)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    theme = importlib.import_module(f"benchmarks.themes.{name}").theme(Settings(3, True, scratch))
    results = {case.name: defaultdict(lambda: 1.0, {"test_top1": 0.9}) for case in theme.cases}
    assert theme.targets
    for target in theme.targets:
        assert evaluate_target(target, [results]).spread is not None, target.text
    for case in theme.cases:
        modules = [word for word in case.command if word.startswith("benchmarks.")]
        assert all(importlib.util.find_spec(module) for module in modules), case.name
        if any(".contenders.ray_" in module for module in modules):
            assert case.env["RAY_ADDRESS"] == "local", f"{case.name} would join any cluster here"


def test_recorded_recipe_is_the_one_in_the_guide() -> None:
    text = (ROOT / "docs" / "how-to" / "add-a-model.md").read_text()
    documented = yaml.safe_load(text[text.index("fast: {") :].partition("```")[0])["fast"]
    batch = data.load_params()["train"]["global_batch_size"]
    recorded = Recipe.model_validate(RECIPES[94] | {"global_batch_size": batch})
    assert Recipe.model_validate(documented) == recorded


def test_cached_splits_depend_on_the_code_of_the_preprocess_stage() -> None:
    code = data.preprocess_code()
    assert "pipelines/preprocess.py" in code
    assert all((ROOT / path).exists() for path in code)


def test_contender_commands_name_the_module_and_its_arguments() -> None:
    assert contender_command("noop", Path("x"), "1")[1:] == [
        "-m",
        "benchmarks.contenders.noop",
        "x",
        "1",
    ]
    command = torchrun_command("kiln_loop", "x", processes=3)
    assert command[command.index("--nproc-per-node") + 1] == "3"
    assert command[-3:] == ["--module", "benchmarks.contenders.kiln_loop", "x"]


def test_shell_command_quotes_words_and_stops_at_the_first_failure() -> None:
    command = shell_command(["echo", "a b"], ["false"], ["echo", "c"])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "a b\n")
