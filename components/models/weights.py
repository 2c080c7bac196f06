"""Files of weights (`weights.safetensors`).

A file contains the tensors of a model and, in its header, the description of the network that
they belong to. Its SHA-256 identifies the model.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from components.errors import UserError
from components.records.training import Network


def serialize(network: Network, state: dict[str, Tensor]) -> bytes:
    """Return the content of a file of weights.

    The same network and tensors give the same bytes, whatever the memory layout of the tensors.
    """
    return save(
        {name: value.detach().cpu().contiguous() for name, value in state.items()},
        # A single key, because safetensors does not keep the order of several. Defaults are left
        # out, so that a new field of `Network` changes the digests only of models that use it.
        metadata={"network": network.model_dump_json(exclude_defaults=True)},
    )


def sha256(network: Network, state: dict[str, Tensor]) -> str:
    """Return the digest of the file that `serialize` would give."""
    return hashlib.sha256(serialize(network, state)).hexdigest()


def read(path: Path) -> tuple[Network, dict[str, Tensor]]:
    """Read a file of weights.

    Raises:
        UserError: the file is missing or was not made by `serialize`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            network = Network.model_validate_json((file.metadata() or {})["network"])
            # `safe_open` is not a mapping, so that it cannot be iterated over.
            return network, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(
            f"{path}: not a model's weights ({error}); `dvc repro` makes it, `dvc pull` fetches it"
        ) from None
