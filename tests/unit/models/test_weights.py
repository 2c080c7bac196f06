"""The file of weights: round trip, digest, refusal of other files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from components.errors import UserError
from components.models import weights
from components.models.architectures import build
from tests.unit.models.test_models import make_network


def test_weights_round_trip_and_digest_is_that_of_the_file(tmp_path: Path) -> None:
    network = make_network()
    module = build(network).to(memory_format=torch.channels_last)
    data = weights.serialize(network, module.state_dict())
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    read_network, state = weights.read(path)
    assert read_network == network
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert weights.sha256(read_network, state) == hashlib.sha256(data).hexdigest(), (
        "the digest does not depend on the memory layout of the tensors"
    )
    state["mean"] += 1
    assert weights.sha256(read_network, state) != hashlib.sha256(data).hexdigest()


def test_defaults_of_a_network_are_not_in_the_file(tmp_path: Path) -> None:
    """Otherwise a new field of `Network` would change the digest of every registered version."""
    network = make_network()
    mirrored = network.model_copy(update={"mirror": True})
    state = build(network).state_dict()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(weights.serialize(network, state))
    with safe_open(path, framework="pt") as file:
        stored = json.loads(file.metadata()["network"])
    assert set(stored) == {"architecture", "width", "shape", "classes", "channels"}
    assert weights.sha256(mirrored, state) != weights.sha256(network, state)


@pytest.mark.parametrize("data", [b"", b"nonsense" * 10, None])
def test_other_and_missing_files_are_refused(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "weights.safetensors"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=r"weights\.safetensors: not a model's weights"):
        weights.read(path)
