"""Optimisers and schedules in the parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.errors import UserError
from components.params import Params, Recipe, load_params, reference

VALUES: dict[str, Any] = {"architecture": "cnn", "epochs": 10, "learning_rate": 0.1}


def make_params(**recipe: Any) -> dict[str, Any]:
    return {
        "preprocess": {"source": {"kind": "idx", "path": "raw"}},
        "train": {"models": {"cnn": VALUES | recipe}},
        "register": {"name": "digits"},
    }


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_bare_name_of_an_optimizer_is_its_short_form(name: str) -> None:
    short = Recipe.model_validate(VALUES | {"optimizer": name})
    assert short.optimizer.name == name
    assert short == Recipe.model_validate(VALUES | {"optimizer": {"name": name}})


@pytest.mark.parametrize("name", ["cosine", "one_cycle", "step", "constant"])
def test_bare_name_of_a_schedule_is_its_short_form(name: str) -> None:
    short = Recipe.model_validate(VALUES | {"schedule": name})
    assert short.schedule.name == name
    assert short == Recipe.model_validate(VALUES | {"schedule": {"name": name}})


def test_recipe_without_the_keys_takes_sgd_and_cosine() -> None:
    recipe = Recipe.model_validate(VALUES)
    named = {"optimizer": {"name": "sgd", "nesterov": True}, "schedule": "cosine"}
    assert recipe == Recipe.model_validate(VALUES | named)


@pytest.mark.parametrize(
    ("recipe", "unused"),
    [
        ({"optimizer": "adam"}, "momentum"),
        ({"optimizer": {"name": "adamw", "betas": [0.8, 0.99]}, "weight_decay": 0.05}, "momentum"),
        ({"schedule": "one_cycle"}, "warmup_epochs"),
        ({"schedule": {"name": "step", "milestones": [3, 7.5]}}, None),
    ],
)
def test_resolved_recipe_is_valid_and_has_no_key_without_an_effect(
    recipe: dict[str, Any], unused: str | None
) -> None:
    """`dvc repro` hands the resolved parameters to all stages."""
    params = Params.model_validate(make_params(**recipe))
    resolved = params.resolved()
    keys = {"momentum", "warmup_epochs"} - {unused}
    assert set(resolved["train"]["models"]["cnn"]) & {"momentum", "warmup_epochs"} == keys
    loaded = Params.model_validate(yaml.safe_load(yaml.safe_dump(resolved)))
    assert loaded.resolved() == resolved
    assert loaded.train.models["cnn"].optimizer == params.train.models["cnn"].optimizer
    assert loaded.train.models["cnn"].schedule == params.train.models["cnn"].schedule


@pytest.mark.parametrize(
    ("recipe", "key", "message"),
    [
        ({"optimizer": "lion"}, "optimizer", "found 'lion'; known: 'sgd', 'adam', 'adamw', "),
        ({"optimizer": 3}, "optimizer", "found 3; a name, or a mapping of a name and its options"),
        ({"optimizer": {"betas": [0.9, 0.99]}}, "optimizer", "name is missing"),
        (
            {"optimizer": {"name": "adam", "epsilom": 1e-8}},
            "optimizer.epsilom",
            "no such key; did you mean epsilon?",
        ),
        ({"optimizer": {"name": "adam", "betas": [0.9, 1]}}, "optimizer.betas.1", "less than 1"),
        ({"optimizer": {"name": "sgd", "betas": [0.9, 0.9]}}, "optimizer.betas", "no such key"),
        ({"optimizer": "adamw", "momentum": 0.9}, "", "momentum is 0.9, and adamw does not use"),
        (
            {"optimizer": "rmsprop", "muon": {"learning_rate": 0.05}},
            "",
            "muon goes with the optimizer sgd only, not with rmsprop; leave one of the two out",
        ),
        ({"l1_penalty": -1}, "l1_penalty", "greater than or equal to 0"),
        ({"schedule": "linear"}, "schedule", "found 'linear'; known: 'cosine', 'one_cycle', "),
        (
            {"schedule": "one_cycle", "warmup_epochs": 2},
            "",
            "warmup_epochs is 2, and one_cycle does not use it; leave it out, or choose the pct_",
        ),
        (
            {"schedule": {"name": "step", "milestones": [3], "every_epochs": 3}},
            "schedule",
            "found both milestones and every_epochs; leave one of them out",
        ),
        (
            {"schedule": {"name": "step", "milestones": [6, 3]}},
            "schedule",
            "milestones is [6, 3]; list epochs in ascending order, each once",
        ),
        (
            {"schedule": {"name": "step", "milestones": [3, 10]}},
            "",
            "schedule has the milestone 10, which a training of 10 epochs does not reach; choose",
        ),
        (
            {"schedule": {"name": "step", "every_epochs": 12}},
            "",
            "schedule has every_epochs 12, which a training of 10 epochs does not reach; choose",
        ),
    ],
)
def test_wrong_choices_are_refused_with_what_would_work(
    recipe: dict[str, Any], key: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(make_params(**recipe)))
    with pytest.raises(UserError) as caught:
        load_params(path)
    text = str(caught.value)
    assert "1 error\n" in text
    place = f"train.models.cnn.{key}".rstrip(".")
    assert f"  {place}: " in text
    assert message in text


def test_reference_shows_the_options_of_each_choice() -> None:
    table = reference.render()
    prefix = "train.models.<name>"
    assert f"| `{prefix}.optimizer` | a name, or one of what follows | sgd |" in table
    assert f"| `{prefix}.optimizer[adamw].betas` | two numbers | [0.9, 0.999] |" in table
    assert f"| `{prefix}.schedule[step].milestones` | list of number > 0 | [] |" in table
