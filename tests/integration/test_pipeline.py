"""`dvc repro` on small data: the stages that run, their outs, and the registry afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.integration.conftest import TEST_ROWS, Clone

pytestmark = pytest.mark.slow

OUTS = [
    *(
        f"models/{model}/{name}"
        for model in ("cnn", "resnet")
        for name in ("weights.safetensors", "result.json", "history.csv")
    ),
    "reports/metrics.json",
    "reports/verdict.json",
    "reports/figures/cnn.png",
]


def test_second_repro_runs_nothing_and_leaves_git_clean(clone: Clone) -> None:
    assert clone.repro() == []
    assert clone.run("git", "status", "--porcelain").stdout == ""
    assert (clone.path / "mlartifacts/fashion-mnist").is_dir()
    assert not (clone.path / "mlruns").exists()


def test_reports_contain_the_metrics_of_the_test_split(clone: Clone) -> None:
    metrics = json.loads((clone.path / "reports/metrics.json").read_text())
    verdict = json.loads((clone.path / "reports/verdict.json").read_text())["models"]
    assert list(metrics) == ["cnn", "resnet"]
    for model, values in metrics.items():
        assert {"top1", "top3", "macro_f1", "min_class_recall", "nll", "ece"} <= set(values)
        confusion = pd.read_csv(clone.path / f"reports/confusion/{model}.csv", dtype=str)
        assert len(confusion) == TEST_ROWS, "the test split, each image exactly once"
        assert values["top1"] == pytest.approx(
            (confusion["actual"] == confusion["predicted"]).mean()
        )
        assert verdict[model]["version"] == clone.receipt(model).version
        assert {g["gate"] for g in verdict[model]["gates"]} == {
            "min_top1",
            "min_class_recall",
            "max_ece",
        }
    assert metrics["cnn"]["top1"] > 0.9


def test_registry_holds_one_validated_version_per_model(clone: Clone) -> None:
    versions = clone.versions()
    for model in ("cnn", "resnet"):
        receipt = clone.receipt(model)
        tags = versions[str(receipt.version)]
        weights = (clone.path / f"models/{model}/weights.safetensors").read_bytes()
        assert tags["kiln.sha256"] == receipt.sha256 == hashlib.sha256(weights).hexdigest()
        assert tags["validation_status"] == "passed"
        assert [
            t["kiln.model"] for t in versions.values() if t["kiln.sha256"] == receipt.sha256
        ] == [model]


def test_mlflow_run_records_inputs_settings_and_metrics(clone: Clone) -> None:
    output = clone.python(
        "import json\n"
        "from components.tracking import store\n"
        "client = store.connect()\n"
        "experiment = client.get_experiment_by_name('fashion-mnist')\n"
        "run = client.search_runs([experiment.experiment_id], \"tags.`kiln.model` = 'cnn'\",\n"
        "                         order_by=['attributes.start_time ASC'])[0]\n"
        "history = client.get_metric_history(run.info.run_id, 'val_top1')\n"
        "inputs = [(i.tags[0].value, i.dataset.digest) for i in run.inputs.dataset_inputs]\n"
        "print(json.dumps([run.info.status, run.data.params, run.data.metrics, run.data.tags,\n"
        "                  [metric.step for metric in history], inputs]))"
    )
    status, params, metrics, tags, steps, inputs = json.loads(output.splitlines()[-1])
    result = json.loads((clone.path / "models/cnn/result.json").read_text())
    assert status == "FINISHED"
    assert params["recipe.learning_rate"] == "0.1"
    assert (params["train.micro_batches"], tags["kiln.num_workers"]) == ("2", "2")
    assert steps == [1, 2], "each epoch once"
    assert {
        "train_loss",
        "train_top1",
        "val_loss",
        "test_top1",
        "test_ms_per_image",
        "images_per_s",
    } <= set(metrics)
    assert any(name.startswith("system/") for name in metrics)
    assert len(tags["git.commit"]) == 40
    assert tags["git.dirty"] == "false"
    assert tags["version.ray"]
    assert tags["kiln.fingerprint"] == result["fingerprint"]
    assert dict(inputs) == {
        "training": result["data"]["training"][:32],
        "validation": result["data"]["validation"][:32],
    }


@pytest.mark.parametrize(
    ("path", "stages"),
    [
        ("components/console.py", set()),
        ("components/ray_session/session.py", set()),
        ("components/orchestration/trainer.py", set()),
        ("components/data/loading/sampling.py", {"train@cnn", "train@resnet"}),
        ("components/evaluation/metrics.py", {"evaluate"}),
    ],
)
def test_changed_code_changes_only_the_stages_whose_outs_it_computes(
    clone: Clone, path: str, stages: set[str]
) -> None:
    file = clone.path / path
    original = file.read_text()
    file.write_text(original + "# A comment.\n")
    try:
        status = json.loads(clone.run("dvc", "status", "--json").stdout.splitlines()[-1])
    finally:
        file.write_text(original)
    assert set(status) == stages


def test_changed_gate_reruns_evaluate_only(clone: Clone) -> None:
    clone.change("evaluate.gates.min_top1", 1.0)
    assert clone.repro() == ["params", "evaluate"]
    receipt = clone.receipt("resnet")
    assert clone.versions()[str(receipt.version)]["validation_status"] == "failed"
    refused = clone.stage("promote", "--version", str(receipt.version), "--reason", "hope")
    assert refused.returncode == 2
    assert (
        "is not promoted to champion: its verdict failed: min_top1 is 1, found 0.9"
        in refused.stdout
    )
    clone.change("evaluate.gates.min_top1", 0.5)
    clone.repro()
    assert clone.versions()[str(receipt.version)]["validation_status"] == "passed"


def test_reverted_parameter_restores_the_first_version(
    clone: Clone,
) -> None:
    first = clone.receipt("cnn")
    before = clone.bytes_of(*OUTS)
    versions = clone.versions()
    clone.change("train.models.cnn.learning_rate", 0.05)
    assert clone.repro() == ["params", "train@cnn", "register@cnn", "evaluate"]
    second = clone.receipt("cnn")
    assert second.sha256 != first.sha256
    clone.change("train.models.cnn.learning_rate", 0.1)
    assert "train@resnet" not in clone.repro()
    assert clone.receipt("cnn") == first
    assert clone.bytes_of(*OUTS) == before
    assert len(clone.versions()) == len(versions) + 1
    assert clone.versions()[str(second.version)]["validation_status"] == "passed"
    assert clone.repro() == []


def test_one_core_trains_the_same_weights(clone: Clone, tmp_path: Path) -> None:
    """`num_workers: auto` is one worker there; the clone trained with two."""
    clone.change("train.num_workers", "auto")
    clone.change("train.models.cnn.micro_batch_size", 30)
    words = ("--model", "cnn", "--train", "data/augmented/train", "--val", "data/prepared/val")
    train = ("python", "-m", "pipelines.train", *words, "--out", str(tmp_path))
    shown = clone.run("taskset", "-c", "0", *train).stdout
    clone.run("git", "checkout", "params.yaml")
    assert "on this machine (1 CPU), workers: 1 (cpu)" in shown
    assert (tmp_path / "weights.safetensors").read_bytes() == (
        clone.path / "models/cnn/weights.safetensors"
    ).read_bytes()


def test_forced_repro_is_bit_identical(clone: Clone) -> None:
    lock = (clone.path / "dvc.lock").read_bytes()
    before = clone.bytes_of(*OUTS)
    versions = clone.versions()
    assert len(clone.repro("-f")) == 8
    assert clone.bytes_of(*OUTS) == before
    assert (clone.path / "dvc.lock").read_bytes() == lock
    assert set(clone.versions()) == set(versions)


def test_pulled_clone_registers_in_an_empty_registry_without_training(
    clone: Clone, tmp_path: Path
) -> None:
    clone.run("dvc", "remote", "add", "-q", "--local", "-d", "store", str(tmp_path / "remote"))
    clone.run("dvc", "push", "-q")
    clone.run("git", "clone", "-q", str(clone.path), str(tmp_path / "fresh"))
    fresh = Clone(tmp_path / "fresh")
    fresh.run("dvc", "remote", "add", "-q", "--local", "-d", "store", str(tmp_path / "remote"))
    fresh.run("dvc", "pull", "-q", "--allow-missing")
    assert sorted(fresh.repro()) == ["evaluate", "register@cnn", "register@resnet"]
    assert [tags["validation_status"] for tags in fresh.versions().values()] == ["passed", "passed"]
    assert fresh.bytes_of("reports/metrics.json") == clone.bytes_of("reports/metrics.json")
    assert fresh.repro() == []


def test_preflight_makes_repro_register_in_an_empty_registry(clone: Clone, tmp_path: Path) -> None:
    other_store = f"sqlite:///{tmp_path / 'other.db'}"
    refused = clone.stage(
        "evaluate",
        "--models",
        "models",
        "--test",
        "data/prepared/test",
        "--out",
        str(tmp_path / "reports"),
        MLFLOW_TRACKING_URI=other_store,
    )
    assert refused.returncode == 2
    assert "is not in this registry; versions there: none; register it again" in refused.stdout
    assert not (tmp_path / "reports").exists()
    clone.stage("preflight")
    assert clone.repro() == [], "receipts of the registry in use are kept"
    shutil.copytree(clone.path / "models", tmp_path / "models")
    preflight = clone.stage("preflight", MLFLOW_TRACKING_URI=other_store)
    assert "to be registered again" in preflight.stdout
    stages = clone.repro(MLFLOW_TRACKING_URI=other_store)
    assert sorted(stages) == ["evaluate", "register@cnn", "register@resnet"]
    clone.stage("preflight")
    clone.repro()
    for model in ("cnn", "resnet"):
        assert (clone.path / f"models/{model}/receipt.json").read_bytes() == (
            tmp_path / f"models/{model}/receipt.json"
        ).read_bytes()


def test_metrics_do_not_depend_on_the_number_of_evaluation_workers(
    clone: Clone, tmp_path: Path
) -> None:
    values = clone.params()
    values["evaluate"]["num_workers"] = 3
    del values["train"]["models"]["resnet"]
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(values))
    reports = tmp_path / "reports"
    words = ("--models", "models", "--test", "data/prepared/test", "--out", str(reports))
    done = clone.stage("evaluate", "--params", str(params), *words)
    assert done.returncode == 0, done.stdout
    metrics = json.loads((clone.path / "reports" / "metrics.json").read_text())
    assert json.loads((reports / "metrics.json").read_text()) == {"cnn": metrics["cnn"]}
    for name in ("confusion/cnn.csv", "figures/cnn.png"):
        assert (reports / name).read_bytes() == (clone.path / "reports" / name).read_bytes()


def test_dvc_plots_shows_history_and_confusion(clone: Clone, tmp_path: Path) -> None:
    clone.run("dvc", "plots", "show", "-o", str(tmp_path / "plots"))
    page = (tmp_path / "plots" / "index.html").read_text()
    assert "vega" in page
    for name in (
        "reports_confusion_cnn_csv",
        "models_cnn_history_csv",
        "models_resnet_history_csv",
    ):
        assert f"vegaEmbed('#{name}'" in page


def test_status_shows_both_models(clone: Clone) -> None:
    shown = clone.stage("status").stdout
    top1 = json.loads((clone.path / "reports/metrics.json").read_text())["cnn"]["top1"]
    assert f"{top1:.2%}" in shown
    assert shown.count("passed") == 2
    assert "python -m pipelines.promote --version" in shown


def test_trace_shows_and_checks_the_lineage_of_a_version(clone: Clone) -> None:
    receipt = clone.receipt("cnn")
    result = json.loads((clone.path / "models/cnn/result.json").read_text())
    reference = f"{receipt.name}/{receipt.version}"
    shown = clone.stage("trace", reference, "--check")
    assert shown.returncode == 0, shown.stdout
    output = " ".join(shown.stdout.split())
    for fact in (
        receipt.sha256,
        receipt.model_id,
        result["fingerprint"],
        *result["data"].values(),
        "recipe.learning_rate=0.1",
    ):
        assert fact in output
    for fact in (
        "commit",
        "recipe",
        "data.raw",
        "data.prepared",
        "data.training",
        "data.validation",
        "weights",
    ):
        assert f" {fact} matches " in output, shown.stdout
    assert "dvc repro train@cnn" in output
    for wrong in ("unknown", f"{receipt.name}/99", f"{receipt.name}@unknown"):
        refused = clone.stage("trace", wrong)
        assert (refused.returncode, "error: " in refused.stdout) == (2, True)


def test_promotion_moves_champion_to_a_passed_version(clone: Clone) -> None:
    version = clone.receipt("resnet").version
    assert clone.stage("promote", "--version", str(version), "--reason", " ").returncode == 2
    refused = clone.stage("promote", "--version", "99", "--reason", "x")
    assert refused.stdout.startswith(
        "error: fashion-mnist version 99 is not in this registry; versions there: 1, 2"
    )
    done = clone.stage("promote", "--version", str(version), "--reason", "the better one")
    assert done.returncode == 0, done.stdout
    champion = clone.python(
        "from components.tracking import store\n"
        "client = store.connect()\n"
        "print(client.get_model_version_by_alias('fashion-mnist', 'champion'))"
    )
    assert f"version={version}" in champion
    assert "champion" in clone.stage("status").stdout
