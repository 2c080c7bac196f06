"""Optional keys of params.yaml: adding one reruns only the stages that depend on it.

The cheap stages run for real. Training, registration and evaluation have dummy outs that
`dvc commit` records, and `dvc status` reports which of these stages a change of params.yaml would
rerun.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from components.params import Params, load_params
from components.training.plan import make_plan
from pipelines import params
from tests.integration.conftest import Clone, make_clone

REQUIRED: dict[str, Any] = {
    "preprocess": {"source": {"kind": "idx", "path": "data/raw/small"}},
    "train": {"models": {"cnn": {"architecture": "cnn", "epochs": 2, "learning_rate": 0.1}}},
    "register": {"name": "small"},
}
FLIP = [{"name": "horizontal_flip"}]
DUMMY_OUTS = [
    "models/cnn/weights.safetensors",
    "models/cnn/result.json",
    "models/cnn/history.csv",
    "models/cnn/receipt.json",
    "reports/metrics.json",
    "reports/verdict.json",
    "reports/per_class.csv",
    "reports/predictions/cnn.parquet",
    "reports/figures/cnn.png",
    "reports/confusion/cnn.csv",
]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone with the required keys alone, in which DVC regards every stage as up to date."""
    clone = make_clone(tmp_path_factory.mktemp("optional") / "clone")
    write_params(clone, REQUIRED)
    assert clone.repro("augment") == ["params", "preprocess", "augment"]
    for name in DUMMY_OUTS:
        path = clone.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    clone.run("dvc", "commit", "--force", "train@cnn", "register@cnn", "evaluate")
    assert changed_stages(clone) == set()
    return clone


@pytest.fixture
def minimal(recorded: Clone, monkeypatch: pytest.MonkeyPatch) -> Clone:
    """The recorded clone as the working directory, with the required keys alone."""
    monkeypatch.chdir(recorded.path)
    write_params(recorded, REQUIRED)
    return recorded


def write_params(clone: Clone, values: dict[str, Any]) -> None:
    (clone.path / "params.yaml").write_text(yaml.safe_dump(values))


def add_keys(values: dict[str, Any], **added: Any) -> dict[str, Any]:
    """Return a copy of `values` with keys added. In the names of `added`, `__` replaces the dot."""
    values = copy.deepcopy(values)
    for key, value in added.items():
        *parents, name = key.split("__")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    return values


def changed_stages(clone: Clone) -> set[str]:
    """Return the stages that `dvc repro` would run, as far as `dvc status` can know."""
    return set(json.loads(clone.run("dvc", "status", "--json").stdout))


def stages_changed_by(clone: Clone, **added: Any) -> set[str]:
    """Add keys, resolve params.yaml as the stage `params` does, and return the changed stages."""
    write_params(clone, add_keys(REQUIRED, **added))
    params.run(Path("data/params.yaml"))
    return changed_stages(clone) - {"params"}


@pytest.mark.parametrize(
    ("key", "value", "stages"),
    [
        ("seed", 1, {"preprocess", "augment", "train@cnn"}),
        ("preprocess__val_fraction", 0.2, {"preprocess"}),
        ("preprocess__limits__max_file_mb", 32, {"preprocess"}),
        ("preprocess__shard_mb", 16, {"preprocess", "augment"}),
        ("augment", {"copies": 1, "policy": FLIP}, {"augment"}),
        ("train__precision", "fp32", {"train@cnn"}),
        # The number of workers and the global batch size count through the micro-batches of each
        # model. Another recipe means another result.json, which `evaluate` depends on too.
        ("train__num_workers", 1, {"train@cnn", "evaluate"}),
        ("train__global_batch_size", 128, {"train@cnn", "evaluate"}),
        ("train__models__cnn__momentum", 0.8, {"train@cnn", "evaluate"}),
        ("evaluate__gates__min_top1", 0.5, {"evaluate"}),
    ],
)
def test_added_key_with_another_value_changes_the_stages_that_depend_on_it(
    minimal: Clone, key: str, value: Any, stages: set[str]
) -> None:
    assert stages_changed_by(minimal, **{key: value}) == stages


def test_keys_that_determine_no_out_change_no_stage(minimal: Clone) -> None:
    changed = stages_changed_by(
        minimal,
        preprocess__num_workers=3,
        train__num_workers={"min": 1, "max": 8},
        train__models__cnn__micro_batch_size=32,  # the default with 256 images
        train__max_failures=0,
        train__images="disk",
        train__checkpoint={"every_steps": 5},
        train__watchdog_s=10,
        train__start_timeout_s=10,
        evaluate__num_workers=3,
        promote={"alias": "best", "max_regression": 0.1},
    )
    assert changed == set()


def test_adding_every_key_with_its_default_changes_no_stage(minimal: Clone) -> None:
    everything = Params.model_validate(REQUIRED).model_dump(mode="json", by_alias=True)
    assert {"seed", "augment", "evaluate", "promote"} <= set(everything)
    write_params(minimal, everything)
    params.run(Path("data/params.yaml"))
    assert changed_stages(minimal) == {"params"}


def test_comments_rerun_the_stage_params_alone(minimal: Clone) -> None:
    text = f"# Größe\n{yaml.safe_dump(REQUIRED)}"
    Path("params.yaml").write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert minimal.repro("augment") == ["params"]


def test_stage_runs_with_the_values_that_dvc_records(minimal: Clone) -> None:
    """An edit of params.yaml during `dvc repro` does not reach the stages that start later."""
    minimal.repro("params")
    write_params(minimal, add_keys(REQUIRED, augment={"copies": 1, "policy": FLIP}))
    assert minimal.repro("--single-item", "--force", "augment") == ["augment"]
    assert copies_per_image(minimal) == 0
    assert recorded_copies(minimal) == 0
    assert minimal.repro("augment") == ["params", "augment"]
    assert copies_per_image(minimal) == 1
    assert recorded_copies(minimal) == 1
    write_params(minimal, REQUIRED)
    assert minimal.repro("augment") == [], "DVC has the first outs in its cache"
    assert copies_per_image(minimal) == 0


def copies_per_image(clone: Clone) -> int:
    counts = pd.read_csv(clone.path / "data/augmented/class_counts.csv")
    return int(counts["augmented"].sum() // counts["original"].sum()) - 1


def recorded_copies(clone: Clone) -> int:
    lock = yaml.safe_load((clone.path / "dvc.lock").read_text())
    copies = lock["stages"]["augment"]["params"]["data/params.yaml"]["augment"]["copies"]
    assert isinstance(copies, int)
    return copies


def test_both_parameter_files_give_the_same_fingerprint(minimal: Clone) -> None:
    params.run(Path("data/params.yaml"))
    splits = Path("data/augmented/train"), Path("data/prepared/val")
    plans = [
        make_plan(load_params(Path(file)), "cnn", *splits)
        for file in ("params.yaml", "data/params.yaml")
    ]
    assert plans[0].settings == plans[1].settings
    assert plans[0].fingerprint == plans[1].fingerprint


def test_experiment_sets_a_required_key(minimal: Clone) -> None:
    minimal.run("git", "add", "dvc.lock", "params.yaml")
    minimal.run("git", "commit", "-qm", "recorded")
    minimal.run("dvc", "exp", "run", "--set-param", "train.models.cnn.learning_rate=0.3", "params")
    assert yaml.safe_load(Path("params.yaml").read_text())["train"]["models"]["cnn"] == {
        "architecture": "cnn",
        "epochs": 2,
        "learning_rate": 0.3,
    }
    assert changed_stages(minimal) == {"train@cnn", "evaluate"}
    difference = json.loads(minimal.run("dvc", "params", "diff", "--json").stdout)
    for file in ("params.yaml", "data/params.yaml"):
        change = difference[file]["train.models.cnn.learning_rate"]
        assert (change["old"], change["new"]) == (0.1, 0.3)


def test_wrong_parameters_fail_in_the_first_stage_with_one_message(minimal: Clone) -> None:
    write_params(minimal, add_keys(REQUIRED, evaluate={"topk": 3}))
    done = minimal.run("dvc", "repro", check=False)
    assert done.returncode != 0
    assert done.stdout.count("error: ") == 1
    assert "evaluate.topk: no such key; did you mean top_k?" in done.stdout
    assert "Traceback" not in done.stdout
    assert "Running stage 'preprocess'" not in done.stdout
    assert [path.name for path in Path("data").glob("*params*")] == []
    write_params(minimal, REQUIRED)
    assert minimal.repro("augment") == [], "DVC restores data/params.yaml from its cache"
