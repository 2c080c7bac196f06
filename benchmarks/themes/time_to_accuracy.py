"""Wall time from command to the accuracy that Ray's own example reaches in its ten epochs."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import checkout, data
from benchmarks.harness import LOCAL_RAY
from benchmarks.model import (
    Case,
    Condition,
    Metric,
    Round,
    Settings,
    Target,
    Theme,
    get_metric,
    mean_metric,
)
from benchmarks.processes import PREPROCESS, TRAIN, contender_command, shell_command

STAGE = "kiln train stage"
RAW = "kiln from raw images"
EXAMPLE = "ray's example"
# Half the default width is enough to be a little more accurate than the example.
_RECIPE = {
    "architecture": "cnn",
    "width": 16,
    "epochs": 1,
    "learning_rate": 0.2,
    "warmup_epochs": 0.2,
}


def theme(settings: Settings) -> Theme:
    example_epochs = 1 if settings.smoke else 10
    params = _params(settings)
    recipe = yaml.safe_dump(params["train"]["models"]["cnn"], default_flow_style=True).strip()
    folder = checkout.copy(settings.scratch / "checkout", params)
    return Theme(
        name="time_to_accuracy",
        title="Wall time to the accuracy of Ray's Fashion-MNIST example",
        metric="wall_s",
        unit="seconds, start-up included",
        cases=[
            *_kiln_cases(folder, settings.smoke),
            Case(
                EXAMPLE,
                contender_command("ray_example", "{result}", str(example_epochs)),
                env={"HOME": str(_write_home(settings.scratch / "home")), **LOCAL_RAY},
            ),
        ],
        targets=[
            Target("3", f"{EXAMPLE} to {case}", _speedup(case), 5.0, condition=_as_accurate(case))
            for case in (STAGE, RAW)
        ],
        conditions=[
            f"{EXAMPLE}: the training function of "
            "`ray.train.examples.pytorch.torch_fashion_mnist_example`, unchanged, two workers, "
            f"global batch 32, {example_epochs} epochs, its files downloaded and extracted "
            "beforehand",
            f"{STAGE}: `pipelines.train` on prepared shards, its default files: MLflow run, "
            "checkpoints, weights; an empty store and no remembered precision each time. "
            f"{RAW}: `pipelines.preprocess` before it, from the gzipped files",
            f"Kiln's recipe: {recipe}, without augmented copies",
            "seconds from the start of the command to its end; test top-1 of the official 10,000 "
            "images is taken afterwards",
        ],
    )


def _kiln_cases(folder: Path, smoke: bool) -> list[Case]:
    def write_splits(_: int) -> None:
        checkout.reset(folder)
        checkout.write_splits(folder, smoke)

    def reset(_: int) -> None:
        checkout.reset(folder)

    environment = {"PYTHONPATH": str(folder)}
    score = score_command(folder)
    return [
        Case(
            STAGE,
            TRAIN,
            cwd=folder,
            env=environment,
            before=write_splits,
            score_command=score,
        ),
        Case(
            RAW,
            shell_command(PREPROCESS, TRAIN),
            cwd=folder,
            env=environment,
            before=reset,
            score_command=score,
        ),
    ]


def score_command(folder: Path) -> list[str]:
    """Return the command that prints the test top-1 of the weights that a copy has trained."""
    weights = folder / "models" / "cnn" / "weights.safetensors"
    return contender_command("score_weights", weights, data.prepare_splits() / "test")


def _speedup(case: str) -> Metric:
    return lambda results: (
        get_metric(results, EXAMPLE, "wall_s") / get_metric(results, case, "wall_s")
    )


def _as_accurate(case: str) -> Condition:
    """Return the condition that a case is as accurate as the example in every round.

    The mean is not enough: the time of a round counts only if its model is as accurate.
    """

    def holds(rounds: Sequence[Round]) -> tuple[bool, str]:
        met = all(
            results[case]["test_top1"] >= results[EXAMPLE]["test_top1"]
            for results in rounds
            if case in results and EXAMPLE in results
        )
        top1 = mean_metric(rounds, case, "test_top1")
        example_top1 = mean_metric(rounds, EXAMPLE, "test_top1")
        return met, f"mean test top-1 {top1:.2%}, the example's {example_top1:.2%}"

    return holds


def _params(settings: Settings) -> dict[str, Any]:
    params = data.load_params()
    params["preprocess"]["source"]["path"] = "data/raw/fashion-mnist"
    params["train"]["models"]["cnn"] = dict(_RECIPE)
    if settings.smoke:
        params["train"]["global_batch_size"] = 64
    return params


def _write_home(home: Path) -> Path:
    """Write Fashion-MNIST where the example's torchvision expects it: below `~/data`."""
    raw = home / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for path in data.RAW.glob("*.gz"):
        target = raw / path.stem
        if not target.exists():
            target.write_bytes(gzip.decompress(path.read_bytes()))
    return home
