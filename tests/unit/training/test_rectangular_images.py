"""Images that are not square: from shards through augmentation and training to the figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from components.data.augmentation.offline import augment
from components.data.augmentation.preview import plot_preview
from components.data.format import shards
from components.data.format.images import Images
from components.data.loading.image_stores import DiskImages
from components.evaluation.metrics import compute_metrics, compute_probabilities
from components.evaluation.plots import plot_report
from components.evaluation.predict import predict_batches
from components.models import architectures
from components.params import Augment
from components.params.base import MUON_ARCHITECTURES, STEMS
from components.records.training import Network
from components.training import loop
from tests.conftest import make_images
from tests.unit.training.cases import CPU, NETWORK, make_config, make_store

CLASSES = ["a", "b", "c"]
# Every operation that a policy may name and that depends on height and width.
POLICY = [
    {"name": "horizontal_flip"},
    {"name": "vertical_flip"},
    {"name": "crop", "padding": 2},
    {"name": "resized_crop"},
    {"name": "affine", "degrees": 10, "translate": 0.1},
    {"name": "rotation", "degrees": 90},
    {"name": "shift", "fraction": 0.1},
    {"name": "erasing", "p": 1.0},
]


def make_rectangles(rows: int, height: int, width: int, seed: int = 0) -> Images:
    """Return a part of the square images of `make_images`; bands stay within it."""
    images = make_images(rows, size=max(height, width), seed=seed, prefix=f"seed{seed}")
    start = (max(height, width) - height) // 2
    pixels = np.ascontiguousarray(images.pixels[:, start : start + height, :width])
    return replace(images, pixels=pixels)


@pytest.mark.parametrize(("height", "width"), [(12, 20), (20, 12)])
def test_network_learns_rectangles_and_is_evaluated_on_them(
    tmp_path: Path, height: int, width: int
) -> None:
    train = make_rectangles(190, height, width)
    val = make_rectangles(90, height, width, seed=1)
    shards.write_split(tmp_path / "train", "train", train, CLASSES, shard_mb=1)
    config = make_config(epochs=6, augment={"flip": 0.5, "crop_padding": 2, "erase": 3})
    config = replace(
        config,
        network=NETWORK.model_copy(update={"shape": (height, width, 1)}),
        train=DiskImages(tmp_path / "train", tmp_path / "cache", CPU, lambda: None),
        val=make_store(val),
    )
    outcome = loop.train(config, precision="fp32")
    assert outcome.history[-1].val_top1 > 0.9

    module = architectures.build(config.network)
    module.load_state_dict(outcome.weights)
    logits, _ = predict_batches(module.eval(), val.pixels, 50, [0, 50])
    probability = compute_probabilities(np.concatenate(logits))
    metrics = compute_metrics(probability, val.labels, top_k=2)
    assert metrics.scalars["top1"] > 0.9
    # A mistake of each class, because the figure shows pictures of mistakes.
    wrong = np.roll(probability, 1, axis=1)
    plot_report("x", CLASSES, compute_metrics(wrong, val.labels, 2), wrong, val, tmp_path / "x.png")
    assert matplotlib.image.imread(tmp_path / "x.png").std() > 0


def test_offline_policies_keep_height_and_width(tmp_path: Path) -> None:
    images = make_rectangles(6, 12, 20)
    settings = Augment.model_validate({"copies": 2, "policy": POLICY})
    copies = augment(images, settings, seed=0)
    assert copies.pixels.shape == (18, 12, 20, 1)
    assert len({image.tobytes() for image in copies.pixels}) == 18
    plot_preview(images, CLASSES, settings, 0, tmp_path / "preview.png")
    assert (tmp_path / "preview.png").stat().st_size > 1000


@pytest.mark.parametrize("architecture", MUON_ARCHITECTURES)
def test_every_architecture_takes_rectangles(architecture: str) -> None:
    for stem in STEMS.get(architecture, ("cifar",)):
        network = Network.model_validate(
            {**NETWORK.model_dump(), "architecture": architecture, "width": None, "stem": stem}
        )
        network = network.model_copy(update={"shape": (24, 40, 1)})
        images = torch.zeros(2, *network.shape, dtype=torch.uint8)
        assert architectures.build(network).eval()(images).shape == (2, 3)
