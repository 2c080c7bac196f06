"""Recipes by name expand into ordinary keys, each of which can be overridden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.errors import UserError
from components.params import Recipe, load_params
from components.params.named_recipes import RECIPES
from pipelines import params as stage

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


@pytest.fixture
def params_values() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(PARAMS.read_text())
    return values


def test_one_word_gives_all_keys() -> None:
    recipe = Recipe.model_validate({"recipe": "linear_probe"})
    assert recipe.init == "pretrained"
    assert recipe.freeze_backbone
    assert recipe.augment.flip == 0.5


@pytest.mark.parametrize("name", RECIPES)
def test_keys_of_a_recipe_are_those_that_it_stands_for(name: str) -> None:
    expanded = Recipe.model_validate({"recipe": name})
    written_out = Recipe.model_validate(RECIPES[name])
    assert expanded.model_copy(update={"recipe": None}) == written_out


def test_given_keys_win_one_by_one() -> None:
    recipe = Recipe.model_validate(
        {"recipe": "scratch_small", "epochs": 7, "augment": {"erase": 4}, "muon": None}
    )
    assert recipe.epochs == 7
    assert (recipe.augment.flip, recipe.augment.erase) == (0.5, 4)
    assert recipe.muon is None
    assert recipe.learning_rate == RECIPES["scratch_small"]["learning_rate"]


@pytest.mark.parametrize(
    "change",
    [{"architecture": "mobilenet_v3_small"}, {"optimizer": "adamw"}, {"schedule": "one_cycle"}],
)
def test_keys_that_a_given_value_refuses_leave_the_recipe(change: dict[str, Any]) -> None:
    recipe = Recipe.model_validate({"recipe": "scratch_small"} | change)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_filled_in_parameters_describe_the_same_recipe() -> None:
    recipe = Recipe.model_validate({"recipe": "scratch_small", "muon": None})
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_unknown_recipe_is_refused_with_the_known_ones(
    params_values: dict[str, Any], tmp_path: Path
) -> None:
    params_values["train"]["models"] = {"photos": {"recipe": "finetune"}}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params_values))
    with pytest.raises(UserError, match="found 'finetune'; known: 'linear_probe', "):
        load_params(path)


def test_stage_prints_what_a_recipe_stands_for(
    params_values: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    params_values["train"]["models"] = {"photos": {"recipe": "scratch_small", "epochs": 9}}
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(params_values))
    stage.run(Path("out.yaml"))
    printed = capsys.readouterr().out
    assert "photos: scratch_small is {architecture: cnn, width: 16, " in printed
    assert "epochs: 9" in printed
    written = yaml.safe_load(Path("out.yaml").read_text())["train"]["models"]["photos"]
    assert written["learning_rate"] == RECIPES["scratch_small"]["learning_rate"]


@pytest.mark.parametrize("value", [["linear_probe"], {"name": "linear_probe"}, 3])
def test_recipe_that_is_no_text_is_refused(
    value: object, params_values: dict[str, Any], tmp_path: Path
) -> None:
    params_values["train"]["models"] = {"photos": {"recipe": value}}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params_values))
    with pytest.raises(UserError, match=r"photos\.recipe: found .*; known: 'linear_probe'"):
        load_params(path)
