"""The schema and the loader of params.yaml."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.errors import UserError
from components.params import Params, load_params, reference

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def values() -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load((ROOT / "params.yaml").read_text()))


def load_refused(values: dict[str, Any], tmp_path: Path) -> str:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as caught:
        load_params(path)
    return str(caught.value)


def test_shipped_params_yaml_is_valid() -> None:
    assert set(load_params(ROOT / "params.yaml").train.models) == {"cnn", "resnet"}


def test_scientific_notation_is_a_number(values: dict[str, Any]) -> None:
    values["train"]["models"]["cnn"]["weight_decay"] = "1e-3"
    assert Params.model_validate(values).train.models["cnn"].weight_decay == 0.001


def test_all_errors_are_reported_together_with_their_keys(
    values: dict[str, Any], tmp_path: Path
) -> None:
    values["train"]["models"]["cnn"]["lerning_rate"] = 1
    values["train"]["models"]["cnn"]["epochs"] = "eight"
    values["train"]["models"]["resnet"]["architecture"] = "resnet19"
    values["augment"]["policy"] = [{"name": "blur"}, {"name": "shift", "fraction": 2}]
    values["sed"] = 1
    del values["register"]["name"]
    message = load_refused(values, tmp_path)
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
def test_wrong_type_or_value_out_of_bounds_is_refused(
    values: dict[str, Any], tmp_path: Path, path: tuple[str, ...], value: Any
) -> None:
    section = values
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    message = load_refused(values, tmp_path)
    assert "1 error\n" in message
    assert f"  {'.'.join(path)}: " in message


def test_indivisible_batch_names_the_nearest_divisible_ones(
    values: dict[str, Any], tmp_path: Path
) -> None:
    values["train"]["num_workers"] = 3
    values["train"]["models"]["resnet"]["global_batch_size"] = 2
    message = load_refused(values, tmp_path)
    reason = "which num_workers (3) does not divide; the nearest that it does"
    assert f"global_batch_size is 256, {reason}: 255 or 258" in message
    assert f"global_batch_size is 2, {reason}: 3 " in message


def test_source_is_checked_by_the_schema_of_its_kind(
    values: dict[str, Any], tmp_path: Path
) -> None:
    values["preprocess"]["source"] = {"kind": "csv", "path": "x", "tabel": "y"}
    assert "preprocess.source.tabel: no such key; did you mean table?" in load_refused(
        values, tmp_path
    )
    values["preprocess"]["source"] = {"path": "x"}
    assert "preprocess.source: kind is missing" in load_refused(values, tmp_path)
    values["preprocess"]["source"] = {"kind": "folder", "path": "x"}
    assert "preprocess.source: found 'folder'; known: 'idx', 'image_folder'" in load_refused(
        values, tmp_path
    )


def test_duplicate_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(UserError, match="line 2: the key 'seed' stands twice"):
        load_params(path)


@pytest.mark.parametrize("text", ["[1, 2]", "", "a: [", "\tseed: 1"])
def test_file_without_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"params\.yaml"):
        load_params(path)


def test_stem_is_refused_for_architectures_without_a_choice(
    values: dict[str, Any], tmp_path: Path
) -> None:
    values["train"]["models"]["cnn"]["stem"] = "imagenet"
    assert "stem cannot be chosen for cnn, only for resnet18" in load_refused(values, tmp_path)


def test_copies_without_a_policy_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    values["augment"] = {"copies": 1, "balance": False, "policy": []}
    assert "augment: policy is empty" in load_refused(values, tmp_path)


def test_file_with_umlauts_crlf_and_byte_order_mark_is_read(
    values: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    text = f"# Größe\n{yaml.safe_dump(values)}"
    path.write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert load_params(path) == Params.model_validate(values)


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes("# Größe".encode("latin-1"))
    with pytest.raises(UserError, match=r"params\.yaml: not YAML: .*utf-8"):
        load_params(path)


REQUIRED: dict[str, Any] = {
    "preprocess": {"source": {"kind": "idx", "path": "raw"}},
    "train": {"models": {"cnn": {"architecture": "cnn", "epochs": 1, "learning_rate": 0.1}}},
    "register": {"name": "digits"},
}


def test_missing_sections_take_their_defaults() -> None:
    params = Params.model_validate(REQUIRED)
    assert params.seed == 0
    assert (params.augment.copies, params.evaluate.top_k) == (0, 5)
    assert params.promote.alias == "champion"


@pytest.mark.parametrize("section", sorted(REQUIRED))
def test_missing_section_with_required_keys_is_refused(section: str, tmp_path: Path) -> None:
    values = {name: value for name, value in REQUIRED.items() if name != section}
    assert f"  {section}: missing" in load_refused(values, tmp_path)


@pytest.mark.parametrize(
    ("train", "recipe"),
    [
        ({}, {}),
        ({"num_workers": {"min": 1, "max": 4}}, {}),
        (
            {"num_workers": 3, "global_batch_size": 30},
            {"global_batch_size": 60, "micro_batch_size": 15},
        ),
    ],
)
def test_resolved_parameters_are_a_parameter_file_of_the_same_meaning(
    train: dict[str, Any], recipe: dict[str, Any]
) -> None:
    values = copy.deepcopy(REQUIRED)
    values["train"] |= train
    values["train"]["models"]["cnn"] |= recipe
    params = Params.model_validate(values)
    resolved = params.resolved()
    loaded = Params.model_validate(yaml.safe_load(yaml.safe_dump(resolved)))
    assert loaded.resolved() == resolved
    assert loaded.train.num_workers == params.train.num_workers
    for settings in (params.train, loaded.train):
        batch_size = settings.global_batch_size_of("cnn")
        assert resolved["train"]["models"]["cnn"]["global_batch_size"] == batch_size
        micro_batch_size = batch_size // settings.num_micro_batches("cnn")
        assert resolved["train"]["models"]["cnn"]["micro_batch_size"] == micro_batch_size


def test_reference_lists_every_parameter_with_its_default() -> None:
    table = reference.render()
    assert "| `seed` | integer ≥ 0 < 2147483648 | 0 |" in table
    assert table.count("| `train.models.<name>.learning_rate` | number > 0 | required |") == 1
    assert "| `augment.policy[trivial_augment]` | name: trivial_augment |" in table
    assert "| `augment.policy[resized_crop].scale` | two numbers | [0.5, 1.0] |" in table
    for line in table.splitlines()[2:]:
        assert line.count(" | ") == 3
        assert line.endswith(". |"), "every parameter has a description"
