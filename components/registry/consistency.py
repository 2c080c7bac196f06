"""Comparison of the files of each model with the version in the registry that they claim to be.

`dvc checkout` and `dvc exp apply` bring back the outs that DVC caches: weights, result and metrics.
The receipt and the verdict have `cache: false`, because they are about one registry, so they stay
those of the last `dvc repro`. `MLFLOW_TRACKING_URI` may name another registry than theirs, and
`git checkout` changes none of the files. Each of them contains digests, and these are compared.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import yaml
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from pydantic import TypeAdapter

from components.data.format.shards import MANIFEST
from components.errors import UserError
from components.files import sha256_file
from components.params import Params
from components.records.base import Record
from components.records.evaluation import ModelVerdict, Verdict
from components.records.receipt import Receipt
from components.records.splits import Manifest
from components.records.training import TrainResult
from components.registry import model_versions, verdicts
from components.registry.model_versions import FORMAT_TAG, SHA256_TAG, STATUS_TAG
from components.tracking import store

_REPRO = "dvc repro"
_EVALUATE = "dvc repro -s -f evaluate"
_METRICS = TypeAdapter(dict[str, dict[str, float]])
_Record = TypeVar("_Record", bound=Record)


@dataclass(frozen=True)
class Mismatch:
    """A file that is missing or belongs to other weights, and the commands that mend it."""

    text: str
    commands: tuple[str, ...] = (_REPRO,)


@dataclass(frozen=True)
class ModelState:
    """One model of `train.models`.

    `version` is the version that its weights are in the registry in use, None if a mismatch leaves
    that open. `verdict` is None unless everything matches: its metrics are then those of `version`.
    """

    model: str
    mismatches: list[Mismatch]
    version: int | None = None
    aliases: list[str] = field(default_factory=list)
    verdict: ModelVerdict | None = None


@dataclass(frozen=True)
class Files:
    """Paths of the files that are compared.

    `models` has a folder per model, `reports` is the out of `evaluate`, `test` the test split and
    `lock` is `dvc.lock`.
    """

    models: Path
    reports: Path
    test: Path
    lock: Path

    @property
    def verdict(self) -> Path:
        """Path of the verdict."""
        return self.reports / "verdict.json"


def check_models(client: MlflowClient, params: Params, files: Files) -> list[ModelState]:
    """Compare the files of each model of `train.models` with one another and with the registry.

    Files that are missing or unreadable are mismatches.

    Raises:
        UserError: The registry may not be read.
    """
    name = params.register_.name
    versions = {int(v.version): v for v in model_versions.list_versions(client, name)}
    aliases = model_versions.get_aliases(client, name) if versions else {}
    check = _Check(params, files, versions, aliases, _read(Verdict, files.verdict))
    return [check.run(model) for model in params.train.models]


def find_unknown_models(params: Params, files: Files) -> Mismatch | None:
    """Return a mismatch if the verdict has models that `train.models` does not have."""
    verdict = _read(Verdict, files.verdict)
    if isinstance(verdict, Mismatch):
        return None
    unknown = ", ".join(sorted(verdict.models.keys() - params.train.models.keys()))
    if not unknown:
        return None
    return Mismatch(f"{files.verdict} is also about {unknown}, not in train.models of params.yaml")


def list_mending_commands(states: list[ModelState], leftover: Mismatch | None) -> list[str]:
    """Return the commands that mend the mismatches, in the order to run them.

    Only the first mismatch of a model counts, which can be the cause of its others. Commands of one
    model go before `dvc repro`, which then runs what depends on it.
    """
    first = [state.mismatches[0] for state in states if state.mismatches]
    first += [leftover] if leftover else []
    commands = dict.fromkeys(command for mismatch in first for command in mismatch.commands)
    return sorted(commands, key=lambda command: {_REPRO: 1, _EVALUATE: 2}.get(command, 0))


@dataclass(frozen=True)
class _Check:
    """The comparison, with what all models share."""

    params: Params
    files: Files
    versions: dict[int, ModelVersion]
    aliases: dict[str, int]
    verdict: Verdict | Mismatch

    def run(self, model: str) -> ModelState:
        sha256 = self._check_weights(model)
        if isinstance(sha256, Mismatch):  # the other files cannot be compared with anything
            return ModelState(model, [sha256])
        version = self._check_receipt(model, sha256)
        verdict = self._check_verdict(model, sha256)
        mismatches = [part for part in (version, verdict) if isinstance(part, Mismatch)]
        if isinstance(version, Mismatch):
            return ModelState(model, mismatches)
        if isinstance(verdict, ModelVerdict) and (problem := self._compare(verdict, version)):
            mismatches.append(problem)
        number = int(version.version)
        aliases = [alias for alias, target in self.aliases.items() if target == number]
        accepted = verdict if isinstance(verdict, ModelVerdict) and not mismatches else None
        return ModelState(model, mismatches, number, aliases, accepted)

    def _check_weights(self, model: str) -> str | Mismatch:
        """Return the digest of the weights, if they are those of the result and of `dvc.lock`."""
        path = self.files.models / model / "weights.safetensors"
        locked = _read_locked_md5(self.files.lock, f"train@{model}", path)
        if not path.is_file():
            hint = "`dvc pull` fetches it from a remote" if locked else "it was not trained yet"
            return Mismatch(f"{path} is missing ({hint})")
        if locked and locked != _md5_file(path):
            commands = (f"dvc checkout train@{model}", _REPRO)
            return Mismatch(f"{path} is not the file that {self.files.lock} names", commands)
        result = _read(TrainResult, path.with_name("result.json"))
        if isinstance(result, Mismatch):
            return result
        sha256 = sha256_file(path)
        if result.sha256 != sha256:
            return Mismatch(f"{path.with_name('result.json')} is of other weights than {path.name}")
        return sha256

    def _check_receipt(self, model: str, sha256: str) -> ModelVersion | Mismatch:
        """Return the version that the receipt names, if it is these weights in this registry."""
        path = self.files.models / model / "receipt.json"
        receipt = _read(Receipt, path)
        if isinstance(receipt, Mismatch):
            return receipt
        named = f"{path} is of {receipt.name} version {receipt.version}"
        if receipt.sha256 != sha256:
            return Mismatch(f"{named} with other weights")
        if receipt.name != self.params.register_.name:
            return Mismatch(f"{named}, and register.name is {self.params.register_.name}")
        again = (f"dvc repro -s -f register@{model}", _REPRO)
        version = self.versions.get(receipt.version)
        if version is None or model_versions.get_model_id(version) != receipt.model_id:
            found = "no such version" if version is None else "another model as that version"
            return Mismatch(f"{named}, and {store.get_redacted_uri()} has {found}", again)
        if version.tags.get(SHA256_TAG) != sha256:
            return Mismatch(f"{named}, whose tag {SHA256_TAG} has another digest", again)
        if FORMAT_TAG not in version.tags:
            return Mismatch(f"{named}, which an earlier Kiln stored without raw weights", again)
        return version

    def _check_verdict(self, model: str, sha256: str) -> ModelVerdict | Mismatch:
        """Return the verdict, if it is on these weights by this test split and these gates."""
        if isinstance(self.verdict, Mismatch):
            return self.verdict
        path = self.files.verdict
        verdict = self.verdict.models.get(model)
        if verdict is None:
            return Mismatch(f"{path} has no verdict on this model")
        named = f"{path} is of version {verdict.version}"
        if verdict.sha256 != sha256:
            return Mismatch(f"{named} with other weights")
        split = _read(Manifest, self.files.test / MANIFEST)
        if isinstance(split, Manifest) and split.sha256 != verdict.test_sha256:
            return Mismatch(f"{named} on another test split than {self.files.test}")
        gates = {gate.gate: gate.threshold for gate in verdict.gates}
        if gates != self.params.evaluate.gates.model_dump(exclude_none=True):
            return Mismatch(f"{named} by other gates than params.yaml has")
        return self._check_metrics(model, verdict)

    def _check_metrics(self, model: str, verdict: ModelVerdict) -> ModelVerdict | Mismatch:
        path = self.files.reports / "metrics.json"
        try:
            metrics = _METRICS.validate_json(path.read_bytes())
        except (OSError, ValueError):
            return Mismatch(f"{path} is missing or cannot be read")
        if metrics.get(model) != verdict.metrics:
            return Mismatch(f"{path} is of another evaluation than {self.files.verdict.name}")
        return verdict

    def _compare(self, verdict: ModelVerdict, version: ModelVersion) -> Mismatch | None:
        """Compare a verdict with the one that the registry has of a version."""
        path = self.files.verdict
        number = int(version.version)
        if (verdict.name, verdict.version) != (version.name, number):
            return Mismatch(
                f"{path} is of {verdict.name} version {verdict.version}, and the weights are "
                f"version {number} here"
            )
        status = "passed" if verdict.passed else "failed"
        try:
            registered = verdicts.get_verdict(version)
        except UserError as error:
            return Mismatch(str(error), (_EVALUATE,))
        if registered != verdict or version.tags[STATUS_TAG] != status:
            return Mismatch(
                f"{path} is not the verdict that the registry has of version {number}",
                (_EVALUATE,),
            )
        return None


def _read(record: type[_Record], path: Path) -> _Record | Mismatch:
    if not path.is_file():
        return Mismatch(f"{path} is missing")
    try:
        return record.read(path)
    except (UserError, OSError):
        return Mismatch(f"{path} cannot be read by this version of Kiln")


def _read_locked_md5(lock: Path, stage: str, out: Path) -> str | None:
    """Return the MD5 that `dvc.lock` has of an out, None if it has none or cannot be read."""
    try:
        outs = yaml.safe_load(lock.read_bytes())["stages"][stage]["outs"]
        return next((entry["md5"] for entry in outs if entry["path"] == out.as_posix()), None)
    except (OSError, yaml.YAMLError, LookupError, TypeError):
        return None


def _md5_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
