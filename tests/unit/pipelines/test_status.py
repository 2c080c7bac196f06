"""`status` shows metrics of a model only beside the version that they are of."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from components.paths import ROOT
from components.records.evaluation import GateResult, ModelVerdict, Verdict
from components.records.receipt import Receipt
from components.records.splits import Manifest
from components.records.training import Epoch, TrainResult
from components.tracking import store
from pipelines import status

NAME = "task"
PARAMS = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
PARAMS["register"]["name"] = NAME
REPRO = "to mend it: dvc repro"
RESULT: dict[str, Any] = {
    "parameters": 1,
    "fingerprint": "f",
    "data": {},
    "micro_batches": 1,
    "global_batch_size": 1,
    "device": "cpu",
    "precision": "fp32",
    "recipe": {},
    "seed": 0,
    "best": Epoch(
        epoch=1, step=1, learning_rate=0, train_loss=0, train_top1=0, val_loss=0, val_top1=0
    ),
}


def make_split(origin: str) -> Manifest:
    return Manifest(
        split="test",
        origin={origin: "o"},
        shape=(1, 1, 1),
        rows=1,
        classes=["a"],
        class_counts=[1],
        shards=[],
    )


class Checkout:
    """The files of two models in the working directory, and versions in an MLflow store beside it.

    The weights of a model are the text `cnn 1` in its first state, `cnn 2` in its second.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client: MlflowClient = store.connect()
        self.params = copy.deepcopy(PARAMS)
        self.split = make_split("first")
        self.verdicts: dict[str, ModelVerdict] = {}

    def write_params(self) -> None:
        Path("params.yaml").write_text(yaml.safe_dump(self.params))

    def write_split(self, origin: str) -> None:
        self.split = make_split(origin)
        self.split.write(Path("data/prepared/test/manifest.json"))

    def train(self, model: str, state: int) -> str:
        """Write what `train` writes, and return the digest of the weights."""
        folder = Path("models") / model
        folder.mkdir(parents=True, exist_ok=True)
        weights = f"{model} {state}".encode()
        (folder / "weights.safetensors").write_bytes(weights)
        sha256 = hashlib.sha256(weights).hexdigest()
        TrainResult(model=model, sha256=sha256, **RESULT).write(folder / "result.json")
        return sha256

    def register(self, model: str, sha256: str) -> Receipt:
        stored = self.client.create_logged_model("0")
        version = self.client.create_model_version(
            NAME,
            source=f"models:/{stored.model_id}",
            tags={"kiln.sha256": sha256, "kiln.model": model, "kiln.format": "2"},
            await_creation_for=0,
        )
        receipt = Receipt(
            model=model,
            name=NAME,
            version=int(version.version),
            model_id=stored.model_id,
            sha256=sha256,
        )
        receipt.write(Path("models") / model / "receipt.json")
        return receipt

    def evaluate(self, receipt: Receipt, top1: float) -> None:
        gates = self.params["evaluate"]["gates"]
        verdict = ModelVerdict(
            name=NAME,
            version=receipt.version,
            sha256=receipt.sha256,
            files_sha256="f",
            test_sha256=self.split.sha256,
            predictions_sha256="p",
            passed=top1 > 0.9,
            metrics={"top1": top1, "macro_f1": 0.1, "min_class_recall": 0.2, "ece": 0.3},
            gates=[GateResult(gate=k, threshold=v, value=0, passed=True) for k, v in gates.items()],
        )
        self.verdicts[receipt.model] = verdict
        self.tag(receipt.version, verdict)
        Verdict(models=self.verdicts).write(Path("reports/verdict.json"))
        self.write_metrics({m: v.metrics for m, v in self.verdicts.items()})

    def tag(self, version: int, verdict: ModelVerdict) -> None:
        tags = {
            "kiln.verdict": verdict.model_dump_json(),
            "validation_status": "passed" if verdict.passed else "failed",
        }
        for key, value in tags.items():
            self.client.set_model_version_tag(NAME, str(version), key, value)

    def write_metrics(self, metrics: dict[str, dict[str, float]]) -> None:
        Path("reports/metrics.json").write_text(json.dumps(metrics, indent=2))

    def run(self, model: str, state: int, top1: float) -> Receipt:
        receipt = self.register(model, self.train(model, state))
        self.evaluate(receipt, top1)
        return receipt


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, ModelVerdict]]:
    """The folder of a checkout with two evaluated versions, and their verdicts."""
    folder = tmp_path_factory.mktemp("checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        checkout = Checkout(folder)
        checkout.client.create_registered_model(NAME)
        checkout.write_params()
        checkout.write_split("first")
        checkout.run("cnn", 1, 0.95)
        checkout.run("resnet", 1, 0.96)
    return folder, checkout.verdicts


@pytest.fixture
def checkout(
    first: tuple[Path, dict[str, ModelVerdict]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Checkout:
    """A checkout whose versions 1 and 2 are cnn with 95 % and resnet with 96 % of top-1."""
    folder = tmp_path / "copy"
    shutil.copytree(first[0], folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    checkout = Checkout(folder)
    checkout.verdicts |= first[1]
    return checkout


Shown = tuple[dict[str, list[str]], list[str]]


def show(capsys: pytest.CaptureFixture[str]) -> Shown:
    """Run `status` and return the cells of each row by model, and the lines below the table."""
    capsys.readouterr()
    status.main([])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    end = next(n for n, line in enumerate(lines) if line.startswith(("status: ", "pictures: ")))
    rows = {line.split()[0]: line.split()[1:] for line in lines[3:end]}
    return rows, [line for line in lines[end:] if not line.startswith("pictures: ")]


CONSISTENT = {
    "cnn": ["95.00%", "0.1000", "20.00%", "0.3000", "1", "passed", "-"],
    "resnet": ["96.00%", "0.1000", "20.00%", "0.3000", "2", "passed", "-"],
}
UNKNOWN = ["-", "-", "-", "-", "-", "unknown", "-"]
NEXT = 'next: python -m pipelines.promote --version {} --reason "..."'


def test_consistent_models_have_metrics_and_the_best_is_suggested(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(capsys) == (CONSISTENT, [NEXT.format(2)])
    checkout.client.set_registered_model_alias(NAME, "champion", "2")
    rows, lines = show(capsys)
    assert (rows["resnet"][-1], lines) == ("champion", [])


def test_outs_of_another_commit_are_not_shown_beside_the_version_of_the_receipt(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    """`dvc checkout` and `dvc exp apply` restore weights, result and metrics, and no more."""
    first_metrics = Path("reports/metrics.json").read_bytes()
    checkout.run("resnet", 2, 0.99)
    assert show(capsys)[1] == [NEXT.format(3)]
    checkout.train("resnet", 1)
    Path("reports/metrics.json").write_bytes(first_metrics)
    rows, lines = show(capsys)
    assert rows == {**CONSISTENT, "resnet": UNKNOWN}
    assert lines == [
        "status: resnet: models/resnet/receipt.json is of task version 3 with other weights",
        "status: resnet: reports/verdict.json is of version 3 with other weights",
        REPRO,
        NEXT.format(1),
    ]


def test_another_registry_shows_no_version_of_the_first(
    checkout: Checkout, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = f"sqlite:///{checkout.folder}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    rows, lines = show(capsys)
    assert rows == {"cnn": UNKNOWN, "resnet": UNKNOWN}
    assert lines == [
        f"status: cnn: models/cnn/receipt.json is of task version 1, and {other} has no such "
        "version",
        f"status: resnet: models/resnet/receipt.json is of task version 2, and {other} has no such "
        "version",
        "to mend it: dvc repro -s -f register@cnn && dvc repro -s -f register@resnet && dvc repro",
    ]
    client = store.connect()
    client.create_registered_model(NAME)
    for _ in range(2):
        source = f"models:/{client.create_logged_model('0').model_id}"
        client.create_model_version(NAME, source=source, await_creation_for=0)
    rows, lines = show(capsys)
    assert rows == {"cnn": UNKNOWN, "resnet": UNKNOWN}
    assert lines[0].endswith(f"and {other} has another model as that version")


def test_new_receipt_and_the_verdict_of_another_registry(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    checkout.register("cnn", checkout.train("cnn", 1))
    rows, lines = show(capsys)
    assert rows["cnn"] == ["-", "-", "-", "-", "3", "unknown", "-"]
    assert lines[0] == (
        "status: cnn: reports/verdict.json is of task version 1, and the weights are version 3 here"
    )


def alter_tag(checkout: Checkout) -> None:
    checkout.client.set_model_version_tag(NAME, "1", "kiln.sha256", "0" * 64)


def rename_registered_model(checkout: Checkout) -> None:
    checkout.params["register"]["name"] = "other"
    checkout.write_params()


def change_gate(checkout: Checkout) -> None:
    checkout.params["evaluate"]["gates"]["min_top1"] = 0.97
    checkout.write_params()


def evaluate_elsewhere(checkout: Checkout) -> None:
    checkout.tag(1, checkout.verdicts["cnn"].model_copy(update={"predictions_sha256": "x"}))


def alter_status(checkout: Checkout) -> None:
    checkout.client.set_model_version_tag(NAME, "1", "validation_status", "failed")


def lose_verdict(checkout: Checkout) -> None:
    checkout.client.delete_model_version_tag(NAME, "1", "kiln.verdict")


def change_metrics(checkout: Checkout) -> None:
    checkout.write_metrics({"cnn": {"top1": 0.99}, "resnet": checkout.verdicts["resnet"].metrics})


def write_lock(checkout: Checkout) -> None:
    outs = [{"path": "models/cnn/weights.safetensors", "md5": "0" * 32}]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"train@cnn": {"outs": outs}}}))


def damage_weights(checkout: Checkout) -> None:
    Path("models/cnn/weights.safetensors").write_text("damaged")


AGAIN = "dvc repro -s -f register@cnn && dvc repro"
EVALUATE = "dvc repro -s -f evaluate"


@pytest.mark.parametrize(
    ("change", "text", "commands"),
    [
        (damage_weights, "models/cnn/result.json is of other weights than", "dvc repro"),
        (
            write_lock,
            "models/cnn/weights.safetensors is not the file that dvc.lock names",
            "dvc checkout train@cnn && dvc repro",
        ),
        (alter_tag, "task version 1, whose tag kiln.sha256 has another digest", AGAIN),
        (rename_registered_model, "of task version 1, and register.name is other", "dvc repro"),
        (change_gate, "version 1 by other gates than params.yaml has", "dvc repro"),
        (
            lambda checkout: checkout.write_split("second"),
            "version 1 on another test split than data/prepared/test",
            "dvc repro",
        ),
        (change_metrics, "metrics.json is of another evaluation than verdict.json", "dvc repro"),
        (evaluate_elsewhere, "is not the verdict that the registry has of version 1", EVALUATE),
        (alter_status, "is not the verdict that the registry has of version 1", EVALUATE),
        (lose_verdict, "task version 1 was never evaluated", EVALUATE),
    ],
)
def test_each_mismatch_hides_the_metrics_and_names_its_commands(
    checkout: Checkout,
    capsys: pytest.CaptureFixture[str],
    change: Any,
    text: str,
    commands: str,
) -> None:
    change(checkout)
    rows, lines = show(capsys)
    assert rows["cnn"][:4] == ["-"] * 4
    assert rows["cnn"][5] == "unknown"
    assert text in next(line for line in lines if line.startswith("status: cnn"))
    assert f"to mend it: {commands}" in lines
    assert NEXT.format(1) not in lines


def test_missing_files_are_one_message_each(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("reports/metrics.json").unlink()
    assert show(capsys)[1] == [
        "status: cnn, resnet: reports/metrics.json is missing or cannot be read",
        REPRO,
    ]
    Path("reports/verdict.json").unlink()
    assert show(capsys)[1] == ["status: cnn, resnet: reports/verdict.json is missing", REPRO]
    Path("models/cnn/receipt.json").unlink()
    assert show(capsys)[1][0] == "status: cnn: models/cnn/receipt.json is missing"
    Path("models/resnet/result.json").unlink()
    assert "status: resnet: models/resnet/result.json is missing" in show(capsys)[1]
    Path("models/resnet/weights.safetensors").unlink()
    rows, lines = show(capsys)
    assert (
        "status: resnet: models/resnet/weights.safetensors is missing (it was not trained yet)"
        in lines
    )
    assert rows == {"cnn": ["-", "-", "-", "-", "-", "unknown", "-"], "resnet": UNKNOWN}


@pytest.mark.parametrize(
    ("path", "models"),
    [
        ("reports/verdict.json", "cnn, resnet"),
        ("reports/metrics.json", "cnn, resnet"),
        ("models/cnn/result.json", "cnn"),
        ("models/cnn/receipt.json", "cnn"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\x00", b'{"cnn": 1}'])
def test_unreadable_files_are_one_message(
    checkout: Checkout,
    capsys: pytest.CaptureFixture[str],
    path: str,
    models: str,
    content: bytes,
) -> None:
    Path(path).write_bytes(content)
    rows, lines = show(capsys)
    assert lines[0].startswith(f"status: {models}: {path} ")
    assert lines[0].endswith(("cannot be read by this version of Kiln", "or cannot be read"))
    assert rows["cnn"][5] == "unknown"
    assert REPRO in lines


@pytest.mark.parametrize("content", ["", "[", "<<<<<<< HEAD\nstages:\n=======\n", "stages: 1"])
def test_unreadable_lock_is_ignored(
    checkout: Checkout, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    Path("dvc.lock").write_text(content)
    assert show(capsys) == (CONSISTENT, [NEXT.format(2)])


def test_models_that_were_added_or_removed_in_params(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    models = checkout.params["train"]["models"]
    models["wide"] = models.pop("resnet")
    checkout.write_params()
    rows, lines = show(capsys)
    assert rows == {"cnn": CONSISTENT["cnn"], "wide": UNKNOWN}
    assert lines == [
        "status: wide: models/wide/weights.safetensors is missing (it was not trained yet)",
        "status: reports/verdict.json is also about resnet, not in train.models of params.yaml",
        REPRO,
        NEXT.format(1),
    ]


def test_checkout_in_which_nothing_ran_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    Path("params.yaml").write_text(yaml.safe_dump(PARAMS))
    rows, lines = show(capsys)
    assert rows == {"cnn": UNKNOWN, "resnet": UNKNOWN}
    assert lines == [
        f"status: {model}: models/{model}/weights.safetensors is missing (it was not trained yet)"
        for model in ("cnn", "resnet")
    ] + [REPRO]
