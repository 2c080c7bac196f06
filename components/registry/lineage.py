"""How a registered version was made, and what of it can be made again."""

from __future__ import annotations

import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from components.data import sources
from components.data.format.shards import MANIFEST
from components.errors import UserError
from components.files import sha256_file
from components.params import Params, load_params
from components.records.splits import Manifest
from components.registry import model_versions
from components.registry.checkout import checkout, fetch_outs, lock_candidates
from components.tracking import runs

_REFERENCE = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)(?:@(?P<alias>[a-z][a-z0-9_-]*)|/(?P<version>[0-9]+))$")

MATCHES, DIFFERS = "matches", "DIFFERS"
_SPLITS = {
    "prepared": "data/prepared/train",
    "training": "data/augmented/train",
    "validation": "data/prepared/val",
    "test": "data/prepared/test",
}


@dataclass(frozen=True)
class Lineage:
    """A version, and what is known of its making: tags of its run and of itself (`facts`), parameters of the run."""

    version: ModelVersion
    model: str
    commit: str
    facts: dict[str, str]
    params: dict[str, str]

    def rows(self) -> list[list[str]]:
        """What a person wants to know, one line each."""
        facts, version = self.facts, self.version
        state = {"true": "with uncommitted changes", "false": "clean"}.get(facts.get("git.dirty", ""), "?")
        libraries = (f"{key.removeprefix('version.')} {facts[key]}" for key in sorted(facts) if key.startswith("version."))
        imported = " (imported: trained elsewhere)" if facts.get("kiln.imported") else ""
        return [
            ["version", f"{version.name} version {version.version}, {model_versions.model_id(version)}"],
            ["weights", f"sha256 {facts[model_versions.SHA256]}"],
            ["commit", f"{self.commit} ({state})"],
            *([key, facts[key]] for key in sorted(facts) if key.startswith("data.")),
            ["fingerprint", facts.get(runs.FINGERPRINT, "unknown")],
            ["MLflow run", f"{version.run_id}{imported}"],
            ["libraries", ", ".join(libraries)],
            ["machine", ", ".join(facts[key] for key in sorted(facts) if key.startswith("machine."))],
            ["parameters", ", ".join(f"{key}={value}" for key, value in sorted(self.params.items()))],
            ["verdict", _verdict(version)],
        ]

    def commands(self) -> list[str]:
        """What makes it again."""
        folder = f"rebuild-{self.commit[:12]}"
        return [
            shlex.join(["git", "worktree", "add", folder, self.commit]),
            f"cd {folder} && make setup && source .venv/bin/activate",
            shlex.join(["dvc", "repro", f"train@{self.model}"]),
            shlex.join(["sha256sum", f"models/{self.model}/weights.safetensors"]),
        ]


def of(client: MlflowClient, reference: str) -> Lineage:
    """The lineage of `name@alias` or `name/version`.

    Raises:
        UserError: there is no such version, or Kiln did not register it.
    """
    version = _resolve(client, reference)
    run_tags, params = runs.facts(client, version.run_id) if version.run_id else ({}, {})
    facts = {**run_tags, **version.tags}
    if missing := [tag for tag in (model_versions.SHA256, runs.MODEL) if tag not in facts]:
        raise UserError(
            f"{version.name} version {version.version} was not registered by Kiln: nothing to trace, for it has no tag "
            + " and no tag ".join(missing)
        )
    return Lineage(version, facts[runs.MODEL], facts.get("git.commit", "unknown"), facts, params)


def _resolve(client: MlflowClient, reference: str) -> ModelVersion:
    parts = _REFERENCE.match(reference)
    if parts is None:
        raise UserError(
            f"{reference!r} is neither name@alias nor name/version (for example fashion-mnist@champion, fashion-mnist/3)"
        )
    number = parts["version"]
    if number is None:
        held = model_versions.aliases(client, parts["name"])
        if parts["alias"] not in held:
            raise UserError(f"{reference}: no such alias; there are {', '.join(held) or 'none'}")
        number = held[parts["alias"]]
    return model_versions.get(client, parts["name"], int(number))


def _verdict(version: ModelVersion) -> str:
    try:
        verdict = model_versions.verdict_of(version)
    except UserError:
        return "none: it was never evaluated"
    gates = ", ".join(f"{g.gate} {g.threshold:g}: {g.value:.4f}" for g in verdict.gates)
    return f"{'passed' if verdict.passed else 'FAILED'} on test split {verdict.test_sha256} ({gates or 'no gates'})"


def check(lineage: Lineage) -> list[list[str]]:
    """Checks the commit out into a temporary folder, fetches what DVC has for it, and compares fact by fact.

    Returns:
        Per fact its name, "matches", "DIFFERS" or "cannot be checked", and what was found.

    Raises:
        UserError: the commit is not in this repository, or this version of Kiln cannot read its parameters.
    """
    facts, commit = lineage.facts, lineage.commit
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        if not checkout(commit, tree):
            raise UserError(f"commit {commit} is not in this repository; nothing can be checked")
        try:
            at_commit = load_params(tree / "params.yaml")
        except UserError as error:
            raise UserError(f"params.yaml of that commit cannot be read by this version of Kiln: {error}") from None
        weights = tree / "models" / lineage.model / "weights.safetensors"
        recorded = {key: value for key, value in lineage.params.items() if key.startswith("recipe.")}
        results = [
            ["commit", MATCHES, commit],
            _recipe(recorded, at_commit, lineage.model),
            _compared("data.raw", facts.get("data.raw.sha256"), _raw(at_commit, tree)),
        ]
        for lock in lock_candidates(commit):
            fetch_outs(tree, lock)
            if weights.exists() and sha256_file(weights) == facts.get(model_versions.SHA256):
                break
        if model_versions.STATUS in lineage.version.tags:
            facts = facts | {"data.test.sha256": model_versions.verdict_of(lineage.version).test_sha256}
        for fact, path in _SPLITS.items():
            manifest = tree / path / MANIFEST
            found = Manifest.read(manifest).sha256 if manifest.exists() else None
            results.append(_compared(f"data.{fact}", facts.get(f"data.{fact}.sha256"), found))
        results.append(
            _compared("weights", facts.get(model_versions.SHA256), sha256_file(weights) if weights.exists() else None)
        )
    return results


def _compared(fact: str, expected: str | None, found: str | None) -> list[str]:
    if expected is None or found is None:
        return [fact, "cannot be checked", "not recorded" if expected is None else "not to be had here"]
    return [fact, MATCHES if expected == found else DIFFERS, found]


def _recipe(recorded: dict[str, str], params: Params, model: str) -> list[str]:
    recipe = params.train.models.get(model)
    if recipe is None or not recorded:
        return ["recipe", "cannot be checked", "not recorded" if recipe else f"params.yaml of the commit has no model {model}"]
    found = {key: str(value) for key, value in runs.flatten({"recipe": recipe.model_dump(mode="json")}).items()}
    # A key that the schema got since then has its default, which is what was done before there was a choice.
    differing = [f"{key} is {found.get(key)}, was {was}" for key, was in sorted(recorded.items()) if found.get(key) != was]
    return ["recipe", DIFFERS if differing else MATCHES, ", ".join(differing) or f"{len(recorded)} parameters"]


def _raw(params: Params, tree: Path) -> str | None:
    source = params.preprocess.source
    try:
        return sources.load(source.model_copy(update={"path": str(tree / source.path)})).sha256
    except UserError:
        return None
