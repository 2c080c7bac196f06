"""The schema and the loader of params.yaml."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.errors import UserError
from components.params import Params, Recipe, load_params, reference

ROOT = Path(__file__).resolve().parents[2]
PARAMS = ROOT / "tests" / "params.yaml"


@pytest.fixture
def values() -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load(PARAMS.read_text()))


def load_refused(values: dict[str, Any], tmp_path: Path) -> str:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as caught:
        load_params(path)
    return str(caught.value)


def test_params_yaml_of_the_repository_is_valid() -> None:
    """Its content is the user's: no other test reads it."""
    load_params(ROOT / "params.yaml")


def test_scientific_notation_is_a_number(values: dict[str, Any]) -> None:
    values["train"]["models"]["cnn"]["weight_decay"] = "1e-3"
    assert Params.model_validate(values).train.models["cnn"].weight_decay == 0.001


def test_all_errors_are_reported_together_with_their_keys(
    values: dict[str, Any], tmp_path: Path
) -> None:
    values["train"]["models"]["cnn"]["lerning_rate"] = 1
    values["train"]["models"]["cnn"]["epochs"] = "eight"
    values["train"]["models"]["resnet"]["architecture"] = "ResNet 19"
    values["augment"]["policy"] = [{"name": "blur"}, {"name": "shift", "fraction": 2}]
    values["sed"] = 1
    del values["register"]["name"]
    message = load_refused(values, tmp_path)
    assert "7 errors" in message
    assert "train.models.cnn.lerning_rate: no such key; did you mean learning_rate?" in message
    assert "train.models.cnn.epochs" in message
    assert "'eight'" in message
    assert "train.models.resnet.architecture: found 'ResNet 19'; known: cnn, resnet14" in message
    assert "augment.policy.0: found 'blur'; known: 'horizontal_flip'" in message
    assert "augment.policy.1.fraction" in message
    assert "sed: no such key; did you mean seed?" in message
    assert "register.name: missing" in message


def test_errors_between_keys_are_reported_with_wrong_values_elsewhere(
    values: dict[str, Any], tmp_path: Path
) -> None:
    del values["register"]
    values["preprocess"] |= {"val_fraction": 0.6, "test_fraction": 0.6, "image_size": "large"}
    values["augment"] = {"copies": 1}
    values["evaluate"]["top_k"] = 1
    values["train"] |= {"num_workers": 3, "device": "tpu"}
    models = values["train"]["models"]
    models["cnn"]["momentum"] = 2
    models["resnet"] |= {"architecture": "resnet50", "width": 8, "warmup_epochs": 99}
    message = load_refused(values, tmp_path)
    assert "10 errors" in message
    assert "register: missing" in message
    assert "preprocess: val_fraction and test_fraction leave nothing to train on" in message
    assert "augment: policy is empty" in message
    assert "train.models.resnet: warmup_epochs is 99, longer than epochs" in message
    assert "train.models.resnet: width cannot be chosen for resnet50" in message
    assert "train: global_batch_size is 256, which num_workers (3) does not divide" in message


def test_no_error_between_keys_is_made_up_for_a_wrong_value(
    values: dict[str, Any], tmp_path: Path
) -> None:
    values["train"] |= {"num_workers": 3, "global_batch_sise": 255}
    values["train"]["models"]["cnn"]["epochs"] = "eight"
    values["augment"]["policy"] = [{"name": "blur"}]
    message = load_refused(values, tmp_path)
    assert "3 errors" in message
    assert "did you mean global_batch_size?" in message
    assert "divide" not in message
    assert "policy is empty" not in message


def test_misspelt_key_of_an_optional_section_is_named_with_its_neighbours(
    values: dict[str, Any], tmp_path: Path
) -> None:
    values["train"]["models"]["cnn"]["muon"] = {"learning_rate": 0.1, "momentun": 0.6}
    assert (
        "train.models.cnn.muon.momentun: no such key; did you mean momentum? "
        "known: learning_rate, momentum\n"
    ) in load_refused(values, tmp_path) + "\n"


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


def test_keys_that_stand_twice_are_reported_with_the_other_errors(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("seed: 1\nseed: 2\ntrain: {device: cpu, device: gpu}\nregister: {nam: x}\n")
    with pytest.raises(UserError) as caught:
        load_params(path)
    message = str(caught.value)
    assert "line 2: the key 'seed' stands twice" in message
    assert "line 3: the key 'device' stands twice" in message
    assert "register.nam: no such key; did you mean name?" in message


def test_anchors_and_merge_keys_are_read(values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    del values["train"]["models"]
    recipe = "{architecture: cnn, epochs: 2, learning_rate: 0.1}"
    models = f"{{a: &a {recipe}, b: {{<<: *a, epochs: 3}}}}"
    path.write_text(
        f"{yaml.safe_dump(values, sort_keys=False)}".replace(
            "train:\n", f"train:\n  models: {models}\n"
        )
    )
    recipes = load_params(path).train.models
    assert (recipes["a"].epochs, recipes["b"].epochs) == (2, 3)
    assert recipes["b"].learning_rate == 0.1


def test_stem_that_an_architecture_lacks_is_refused(values: dict[str, Any], tmp_path: Path) -> None:
    values["train"]["models"]["cnn"]["stem"] = "half"
    values["train"]["models"]["resnet"]["stem"] = "imagenet"
    message = load_refused(values, tmp_path)
    assert "stem half cannot be chosen for cnn: it has no choice of stems" in message
    assert "stem imagenet cannot be chosen for resnet20: it has cifar, half" in message


def test_misspelled_architecture_is_suggested_where_its_options_are_refused(
    values: dict[str, Any], tmp_path: Path
) -> None:
    values["train"]["models"]["cnn"] |= {"architecture": "resnet21", "width": 8}
    message = load_refused(values, tmp_path)
    assert "did you mean the architecture resnet" in message
    assert "resnet20" in message


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
    with pytest.raises(UserError, match=r"params\.yaml: not in UTF-8: byte 0xF6 in line 1; save"):
        load_params(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 2020-13-45", "not YAML: month must be in .* line 1, column 7"),
        ("seed: 0x_", "not YAML: invalid literal"),
        (f"seed: {'9' * 5000}", "not YAML: .*5000 digits"),
        ("seed: " + "[" * 3000, "not YAML: .*recursion"),
        ("seed: 0\ntrain:\n\tdevice: cpu\n", "indent with blanks, not with tabs"),
        ("\tseed: 1", "indent with blanks, not with tabs"),
        ("a: [", "not YAML: "),
        ("? [1]\n: 2", "not YAML: .*unhashable"),
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("- seed\n", "keys and values such as `seed: 0` are needed, found list"),
        ("[1, 2]", "keys and values such as `seed: 0` are needed, found list"),
    ],
)
def test_text_without_values_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"(?s)params\.yaml: .*{message}"):
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
    ("global_batch_size", "micro_batches"),
    [(256, 8), (250, 5), (128, 8), (64, 4), (32, 2), (16, 1), (97, 1), (1, 1)],
)
def test_automatic_workers_split_a_batch_the_same_way_on_every_machine(
    global_batch_size: int, micro_batches: int
) -> None:
    values = copy.deepcopy(REQUIRED)
    values["train"] |= {"num_workers": "auto", "global_batch_size": global_batch_size}
    train = Params.model_validate(values).train
    assert train.num_micro_batches("cnn") == micro_batches
    assert train.worker_bounds("cnn") == (1, micro_batches)


def test_automatic_workers_are_at_most_one_per_micro_batch() -> None:
    values = copy.deepcopy(REQUIRED)
    values["train"]["models"]["cnn"]["micro_batch_size"] = 16
    train = Params.model_validate(values).train
    assert train.worker_bounds("cnn") == (1, 16)


def test_range_without_a_maximum_needs_its_minimum_of_micro_batches(tmp_path: Path) -> None:
    values = copy.deepcopy(REQUIRED)
    values["train"]["num_workers"] = {"min": 9}
    assert "8 in a global batch of 256, too few for 9 workers" in load_refused(values, tmp_path)


@pytest.mark.parametrize(
    ("train", "recipe"),
    [
        ({}, {}),
        ({"num_workers": "auto"}, {}),
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


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"freeze_epochs": 1}, "freeze_epochs needs init"),
        ({"freeze_epochs": 1, "init": "x", "freeze_backbone": True}, "choose one"),
        ({"freeze_epochs": 2, "init": "x"}, r"all of the epochs \(2\); lower it, or use"),
        (
            {"freeze_epochs": 1, "init": "x", "epochs": 9, "early_stopping": {"patience": 1}},
            None,
        ),
        (
            {"freeze_epochs": 3, "init": "x", "epochs": 9, "early_stopping": {"patience": 2}},
            "could end within the freeze_epochs",
        ),
        ({"layer_decay": 0.5, "muon": {"learning_rate": 0.1}}, "layer_decay does not reach"),
    ],
)
def test_fine_tuning_that_contradicts_itself_is_refused(
    recipe: dict[str, Any], message: str | None
) -> None:
    values = {"architecture": "cnn", "epochs": 2, "learning_rate": 0.1} | recipe
    if message is None:
        Recipe.model_validate(values)
        return
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate(values)
