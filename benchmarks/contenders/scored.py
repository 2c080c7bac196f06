"""Test top-1 of weights that a stage left: `WEIGHTS TEST_SPLIT` -> a share of 1."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from components.data.format.shards import read_split
from components.data.loading.image_stores import Resident
from components.models import build, weights
from components.training.loop import validate

CPU = torch.device("cpu")


def main() -> None:
    network, state = weights.read(Path(sys.argv[1]))
    model = build(network)
    model.load_state_dict(state)
    print(validate(model, Resident(read_split(Path(sys.argv[2]))[0], CPU), CPU)[1])


if __name__ == "__main__":
    main()
