"""Wall time from command to the accuracy that Ray's own example has after its ten epochs."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks import checkout, data
from benchmarks.contenders.common import TRAIN
from benchmarks.harness import OWN_RAY
from benchmarks.model import Case, Round, Settings, Target, Theme, figure, mean

STAGE, RAW, EXAMPLE = "kiln train stage", "kiln from raw images", "ray's example"
# Half the usual width: as right as the example is, and a little more, is all that is asked for.
_RECIPE = {"architecture": "cnn", "width": 16, "epochs": 1, "learning_rate": 0.2, "warmup_epochs": 0.2}
_PREPARE = "-m pipelines.preprocess --out data/prepared"


def theme(settings: Settings) -> Theme:
    epochs = 1 if settings.smoke else 10
    home = _home(settings.scratch / "home")
    there = checkout.copy(settings.scratch / "checkout", _params(settings))
    env, score = {"PYTHONPATH": str(there)}, score_of(there)
    return Theme(
        name="time_to_accuracy",
        title="Wall time to the accuracy of Ray's Fashion-MNIST example",
        metric="wall_s",
        unit="seconds, start-up included",
        cases=[
            Case(STAGE, shell(TRAIN), cwd=there, env=env, before=lambda _: with_data(there, settings), score=score),
            Case(RAW, shell(_PREPARE, TRAIN), cwd=there, env=env, before=lambda _: emptied(there), score=score),
            Case(
                EXAMPLE,
                [sys.executable, "-m", "benchmarks.contenders.ray_example", "{result}", str(epochs)],
                env={"HOME": str(home), **OWN_RAY},
            ),
        ],
        targets=[
            Target("3", f"{EXAMPLE} to {case}", _speedup(case), 5.0, condition=_as_accurate(case)) for case in (STAGE, RAW)
        ],
        conditions=[
            f"{EXAMPLE}: `ray.train.examples.pytorch.torch_fashion_mnist_example`, unchanged, two workers, global batch 32, "
            f"{epochs} epochs, its files downloaded and extracted beforehand",
            f"{STAGE}: `pipelines.train` on prepared shards, its default files: MLflow run, checkpoints, weights; an empty "
            f"store and no remembered precision each time. {RAW}: `pipelines.preprocess` before it, from the gzipped files",
            f"Kiln's recipe: {yaml.safe_dump(_params(settings)['train']['models']['cnn'], default_flow_style=True).strip()}, "
            "without augmented copies",
            "seconds from the start of the command to its end; test top-1 of the official 10,000 images is taken afterwards",
        ],
    )


def emptied(there: Path) -> None:
    """Takes away what a checkout's stages have left and remember."""
    checkout.without(there, "models", "mlflow.db", "mlartifacts", ".kiln", "data/prepared")


def with_data(there: Path, settings: Settings) -> None:
    emptied(there)
    rows = 2000 if settings.smoke else None
    data.cut(data.prepared(), there / "data" / "prepared", rows, 500 if settings.smoke else None)


def score_of(there: Path) -> list[str]:
    weights, test = there / "models" / "cnn" / "weights.safetensors", data.prepared() / "test"
    return [sys.executable, "-m", "benchmarks.contenders.scored", str(weights), str(test)]


def shell(*commands: str) -> Sequence[str]:
    return ["sh", "-ec", " && ".join(f'"{sys.executable}" {command}' for command in commands)]


def _speedup(case: str) -> Any:
    return lambda figures: figure(figures, EXAMPLE, "wall_s") / figure(figures, case, "wall_s")


def _as_accurate(case: str) -> Any:
    def holds(rounds: Sequence[Round]) -> tuple[bool, str]:
        """In every round, not on average: the clock is stopped for a model that is as good."""
        pairs = [(f[case]["test_top1"], f[EXAMPLE]["test_top1"]) for f in rounds if case in f and EXAMPLE in f]
        own, theirs = mean(rounds, case, "test_top1"), mean(rounds, EXAMPLE, "test_top1")
        return all(a >= b for a, b in pairs), f"mean test top-1 {own:.2%}, the example's {theirs:.2%}"

    return holds


def _params(settings: Settings) -> dict[str, Any]:
    values = data.params()
    values["preprocess"]["source"]["path"] = "data/raw/fashion-mnist"
    values["train"]["models"]["cnn"] = dict(_RECIPE)
    if settings.smoke:
        values["train"]["global_batch_size"] = 64
    return values


def _home(home: Path) -> Path:
    """Fashion-MNIST where torchvision looks for it below `~/data`."""
    raw = home / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for path in data.RAW.glob("*.gz"):
        target = raw / path.stem
        if not target.exists():
            target.write_bytes(gzip.decompress(path.read_bytes()))
    return home
