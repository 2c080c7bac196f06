"""Proof that a version was registered."""

from __future__ import annotations

from components.records.base import Record


class Receipt(Record):
    """`models/M/receipt.json`: proof that the weights are a version of a registered model.

    `model` is the entry of `train.models`, `name` the registered model. `sha256` is the digest of
    the weights. `model_id` is the registry's own id of the logged model, which differs between two
    registries.
    """

    model: str
    name: str
    version: int
    model_id: str
    sha256: str
