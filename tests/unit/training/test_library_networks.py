"""Networks of torchvision and timm in the training loop: dropout, odd layers, other statistics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from components.training import loop
from tests.conftest import make_images
from tests.unit.training.cases import (
    GLOBAL_BATCH,
    NETWORK,
    Recorder,
    Result,
    make_config,
    result_of,
    run_on_ranks,
)

SIZE = 32
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("mobilenet_v3_small", {"dropout": 0.5}),
    (
        "timm/vit_tiny_patch16_224",
        {
            "img_size": SIZE,
            "depth": 2,
            "embed_dim": 24,
            "proj_drop_rate": 0.1,
            "drop_path_rate": 0.2,
        },
    ),
]


def train(
    architecture: str, options: dict[str, Any], *, resume: Any = None, callback: Any = None
) -> Result:
    """Train for two epochs of three steps, of two micro-batches each."""
    config = make_config(
        train_images=make_images(2 * GLOBAL_BATCH + 10, size=SIZE),
        micro_batches=2,
        epochs=2,
        architecture=architecture,
        options=options,
        width=None,
        callback=callback,
    )
    network = NETWORK.model_copy(
        update={
            "architecture": architecture,
            "width": None,
            "options": options,
            "shape": (SIZE, SIZE, 1),
        }
    )
    config = replace(config, network=network, val=config.train)
    return result_of(loop.train(config, precision="fp32", resume=resume))


@pytest.mark.parametrize(("architecture", "options"), NETWORKS)
def test_weights_do_not_depend_on_world_size_or_resume(
    architecture: str, options: dict[str, Any]
) -> None:
    recorder = Recorder()
    expected = train(architecture, options, callback=recorder)
    assert train(architecture, options, resume=recorder.checkpoints[2]) == expected
    single = run_on_ranks(1, train, architecture=architecture, options=options)
    assert run_on_ranks(2, train, architecture=architecture, options=options) == single * 2
