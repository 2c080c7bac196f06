"""What a user writes into params.yaml, right and wrong."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.errors import UserError
from components.params import Params, Recipe, load_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def values() -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load((ROOT / "params.yaml").read_text()))


def refused(values: dict[str, Any], tmp_path: Path) -> str:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as caught:
        load_params(path)
    return str(caught.value)


def test_the_shipped_file_is_valid() -> None:
    assert set(load_params(ROOT / "params.yaml").train.models) == {"cnn", "resnet"}


def test_scientific_notation_that_yaml_reads_as_text_is_a_number(values: dict[str, Any]) -> None:
    values["train"]["models"]["cnn"]["weight_decay"] = "1e-3"
    assert Params.model_validate(values).train.models["cnn"].weight_decay == 0.001


def test_every_error_is_reported_at_once_with_its_path(values: dict[str, Any], tmp_path: Path) -> None:
    values["train"]["models"]["cnn"]["lerning_rate"] = 1
    values["train"]["models"]["cnn"]["epochs"] = "eight"
    values["train"]["models"]["resnet"]["architecture"] = "resnet19"
    values["augment"]["policy"] = [{"name": "blur"}, {"name": "shift", "fraction": 2}]
    values["sed"] = 1
    del values["register"]["name"]
    message = refused(values, tmp_path)
    assert "7 errors" in message
    assert "train.models.cnn.lerning_rate: no such key; did you mean learning_rate?" in message
    assert "train.models.cnn.epochs" in message
    assert "'eight'" in message
    assert "train.models.resnet.architecture: found 'resnet19'; known: 'cnn', 'resnet20'" in message
    assert "augment.policy.0: found 'blur'; known: 'horizontal_flip'" in message
    assert "augment.policy.1.fraction" in message
    assert "sed: no such key; did you mean seed?" in message
    assert "register.name: missing" in message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("seed",), True),
        (("seed",), 1.5),
        (("train", "num_workers"), "2"),
        (("train", "num_workers"), 0),
        (("train", "models", "cnn", "learning_rate"), True),
        (("train", "models", "cnn", "learning_rate"), float("nan")),
        (("train", "models", "cnn", "epochs"), None),
        (("augment", "balance"), 1),
        (("evaluate", "gates", "min_top1"), 92.0),
        (("preprocess", "val_fraction"), 0),
    ],
)
def test_a_wrong_type_or_an_impossible_value_is_refused(
    values: dict[str, Any], tmp_path: Path, path: tuple[str, ...], value: Any
) -> None:
    section = values
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    message = refused(values, tmp_path)
    assert "1 error\n" in message
    assert f"  {'.'.join(path)}: " in message


def test_a_batch_that_the_workers_do_not_divide_names_the_nearest_that_they_do(values: dict[str, Any], tmp_path: Path) -> None:
    values["train"]["num_workers"] = 3
    values["train"]["models"]["resnet"]["global_batch_size"] = 2
    message = refused(values, tmp_path)
    assert "global_batch_size is 256, which num_workers (3) does not divide; the nearest that it does: 255 or 258" in message
    assert "global_batch_size is 2, which num_workers (3) does not divide; the nearest that it does: 3 " in message


def test_a_source_is_checked_as_its_kind_wants(values: dict[str, Any], tmp_path: Path) -> None:
    values["preprocess"]["source"] = {"kind": "csv", "path": "x", "tabel": "y"}
    assert "preprocess.source.tabel: no such key; did you mean table?" in refused(values, tmp_path)
    values["preprocess"]["source"] = {"path": "x"}
    assert "preprocess.source: kind is missing" in refused(values, tmp_path)
    values["preprocess"]["source"] = {"kind": "folder", "path": "x"}
    assert "preprocess.source: found 'folder'; known: 'idx', 'image_folder'" in refused(values, tmp_path)


def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(UserError, match="line 2: the key 'seed' stands twice"):
        load_params(path)


@pytest.mark.parametrize("text", ["[1, 2]", "", "a: [", "\tseed: 1"])
def test_what_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"params\.yaml"):
        load_params(path)


def test_a_stem_is_chosen_by_size_or_by_name_and_only_where_there_are_two(values: dict[str, Any], tmp_path: Path) -> None:
    values["train"]["models"]["cnn"]["stem"] = "imagenet"
    assert "stem cannot be chosen for cnn, only for resnet18" in refused(values, tmp_path)
    recipe = {"architecture": "resnet50", "epochs": 1, "learning_rate": 0.1}
    for stem, found in {"auto": ["cifar", "cifar", "imagenet"], "cifar": ["cifar"] * 3, "imagenet": ["imagenet"] * 3}.items():
        chosen = Recipe.model_validate(recipe | {"stem": stem})
        assert [chosen.stem_for(*size) for size in ((28, 28), (224, 64), (65, 224))] == found
    assert Recipe.model_validate(recipe | {"architecture": "cnn"}).stem_for(224, 224) == "cifar"


def test_copies_without_a_policy_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    values["augment"] = {"copies": 1, "balance": False, "policy": []}
    assert "augment: policy is empty" in refused(values, tmp_path)
