"""A training on Ray that starts with the weights of another one, and a network of a library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from components.files import sha256_file
from components.models import weights
from components.models.architectures import build
from components.models.initial import find_head
from tests.integration.conftest import Clone

pytestmark = pytest.mark.slow

SPLITS = ("--train", "data/augmented/train", "--val", "data/prepared/val")


def train(clone: Clone, out: Path, **recipe: Any) -> Any:
    values = clone.params()
    values["train"]["models"]["cnn"] |= recipe
    params = out.with_suffix(".yaml")
    params.write_text(yaml.safe_dump(values))
    return clone.stage(
        "train", "--params", str(params), "--model", "cnn", *SPLITS, "--out", str(out)
    )


@pytest.mark.parametrize("kind", ["file", "registry"])
def test_frozen_backbone_on_ray_keeps_the_bits_of_its_start(
    clone: Clone, tmp_path: Path, kind: str
) -> None:
    start = clone.path / "models" / "cnn" / "weights.safetensors"
    receipt = clone.receipt("cnn")
    init = {"file": str(start), "registry": f"models:/{receipt.name}/{receipt.version}"}[kind]
    done = train(clone, tmp_path / "out", init=init, freeze_backbone=True, epochs=1)
    assert done.returncode == 0, done.stdout
    network, state = weights.read(tmp_path / "out" / "weights.safetensors")
    before_network, before = weights.read(start)
    assert network.channels == before_network.channels
    changed = {
        name
        for name, tensor in state.items()
        if not torch.equal(tensor, before[name]) and not name.endswith("num_batches_tracked")
    }
    assert changed
    head = f"network.{find_head(build(network).network)}"
    assert changed == {f"{head}.weight", f"{head}.bias"}
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["data"]["init"] == receipt.sha256
    assert result["recipe"]["init"] == init
    assert result["sha256"] == sha256_file(tmp_path / "out" / "weights.safetensors")
    assert not list((clone.path / ".kiln" / "runs").glob("*-initial"))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"architecture": "vit_b_16", "width": None}, "vit_b_16 does not take images of"),
        ({"architecture": "resnet19", "width": None}, "did you mean resnet18"),
        ({"init": "missing.pth"}, "there is no file missing.pth"),
    ],
)
def test_network_that_cannot_be_trained_is_refused_before_training(
    clone: Clone, tmp_path: Path, recipe: dict[str, Any], message: str
) -> None:
    done = train(clone, tmp_path / "out", **recipe)
    assert done.returncode == 2, done.stdout
    assert message in done.stdout
    assert not (tmp_path / "out").exists()
