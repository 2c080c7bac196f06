"""Themes hang together: targets name cases that there are, cases name contenders that there are."""

from __future__ import annotations

import importlib
import importlib.util
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from benchmarks import data
from benchmarks.__main__ import ON_DEMAND, ON_GPU, THEMES
from benchmarks.model import Settings, judge
from benchmarks.themes.record import RECIPES
from components.data.format.shards import write_split
from components.params import Recipe
from components.paths import ROOT
from components.records.splits import Channels
from tests.conftest import make_images


@pytest.mark.parametrize("name", THEMES + ON_DEMAND + ON_GPU)
def test_every_target_is_about_cases_of_its_theme(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "val", "test"):
        channels = Channels(mean=[80.0], std=[60.0])
        write_split(tmp_path / "data" / split, split, make_images(60, prefix=split), ["a", "b", "c"], 1, channels)
    monkeypatch.setattr(data, "prepared", lambda: tmp_path / "data")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    theme = importlib.import_module(f"benchmarks.themes.{name}").theme(Settings(3, True, scratch))
    figures = {case.name: defaultdict(lambda: 1.0, {"test_top1": 0.9}) for case in theme.cases}
    assert theme.targets
    for target in theme.targets:
        assert judge(target, [figures]).spread is not None, target.text
    for case in theme.cases:
        if "ray_" in " ".join(case.command) and "kiln_ray" not in " ".join(case.command):
            assert case.env["RAY_ADDRESS"] == "local", f"{case.name} would join any cluster on this machine"
        modules = [word for word in case.command if word.startswith("benchmarks.")]
        assert all(importlib.util.find_spec(module) for module in modules), case.name


def test_readmes_recipe_is_the_one_that_was_recorded() -> None:
    text = (ROOT / "README.md").read_text()
    shown = yaml.safe_load(text[text.index("fast: {") :].partition("\n\n")[0])["fast"]
    batch = data.params()["train"]["global_batch_size"]
    assert Recipe.model_validate(shown) == Recipe.model_validate(RECIPES[94] | {"global_batch_size": batch})
