"""Test top-1 of weights that a stage left: `WEIGHTS TEST_SPLIT` -> a share of 1."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from components.data.shards import read_split
from components.models import build, weights
from components.training.loop import validate


def main() -> None:
    network, state = weights.read(Path(sys.argv[1]))
    model = build(network)
    model.load_state_dict(state)
    print(validate(model, read_split(Path(sys.argv[2]))[0], torch.device("cpu"))[1])


if __name__ == "__main__":
    main()
