"""What the registry gives out: receipts of versions, and the moves of aliases."""

from __future__ import annotations

from components.records.base import Record
from components.records.evaluation import Comparison


class Receipt(Record):
    """`models/M/receipt.json`: proof that the weights are a version of a registered model.

    `sha256` is the digest of the weights. `model_id` is the registry's own id of the logged
    model, which differs between two registries.
    """

    model: str
    name: str
    version: int
    model_id: str
    sha256: str


class Move(Record):
    """One move of an alias, as the history stores it.

    `source` and `target` are versions, None where the alias does not exist. `after` is the
    number of the last move that the author of this one had seen. `undoes` is the number of the
    move that a rollback takes back.
    """

    alias: str
    source: int | None
    target: int | None
    after: int
    undoes: int | None
    who: str
    when: str
    reason: str
    override: str | None
    verdict_sha256: str | None
    git_commit: str
    comparison: Comparison | None
    nonce: str
