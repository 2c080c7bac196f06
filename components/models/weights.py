"""`weights.safetensors`: a model's tensors, and in the header the network that they belong to. Its SHA-256 is the model's."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from components.errors import UserError
from components.records.training import Network


def serialize(network: Network, state: dict[str, Tensor]) -> bytes:
    """The same network and tensors give the same bytes, whatever their layout in memory was."""
    # One key only: safetensors keeps no order among several.
    return save(
        {name: value.detach().cpu().contiguous() for name, value in state.items()},
        # Without defaults: a field that comes later changes the digest only of models that use it.
        metadata={"network": network.model_dump_json(exclude_defaults=True)},
    )


def sha256(network: Network, state: dict[str, Tensor]) -> str:
    """Digest of the file that `serialize` would make."""
    return hashlib.sha256(serialize(network, state)).hexdigest()


def read(path: Path) -> tuple[Network, dict[str, Tensor]]:
    """Raises `UserError` when the file is not one that `serialize` made."""
    try:
        with safe_open(path, framework="pt") as file:
            network = Network.model_validate_json((file.metadata() or {})["network"])
            return network, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a model's weights ({error}); `dvc repro` makes it, `dvc pull` fetches it") from None
