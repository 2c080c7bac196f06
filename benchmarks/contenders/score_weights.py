"""Print the test top-1 of a model's weights as a share of 1: `WEIGHTS TEST_SPLIT`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from components.data.format.shards import read_split
from components.data.loading.image_stores import InMemoryImages
from components.models import weights
from components.models.architectures import build
from components.training.validation import validate


def main() -> None:
    device = torch.device("cpu")
    network, state = weights.read(Path(sys.argv[1]))
    images, _ = read_split(Path(sys.argv[2]))
    model = build(network)
    model.load_state_dict(state)
    _, top1 = validate(model, InMemoryImages(images, device), device)
    print(top1)


if __name__ == "__main__":
    main()
