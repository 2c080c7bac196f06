"""The origin of a registered version, and a check against what can be rebuilt of it."""

from __future__ import annotations

import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from components.data.format.shards import MANIFEST
from components.data.sources.opening import open_source
from components.errors import UserError
from components.files import sha256_file
from components.params import Params, load_params
from components.records.splits import Manifest
from components.registry import model_versions, verdicts
from components.registry.checkout import checkout, fetch_outs, lock_candidates
from components.tracking import runs

_REFERENCE = re.compile(
    r"^(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)(?:@(?P<alias>[a-z][a-z0-9_-]*)|/(?P<version>[0-9]+))$"
)

MATCHES = "matches"
DIFFERS = "DIFFERS"
UNKNOWN = "cannot be checked"
_SPLITS = {
    "prepared": "data/prepared/train",
    "training": "data/augmented/train",
    "validation": "data/prepared/val",
    "test": "data/prepared/test",
}


@dataclass(frozen=True)
class CheckResult:
    """One recorded fact compared with the commit: `outcome` is MATCHES, DIFFERS or UNKNOWN."""

    fact: str
    outcome: str
    found: str


@dataclass(frozen=True)
class Lineage:
    """A version and the records of how it was made.

    `facts` are the tags of its run and of the version itself, `params` the parameters of the run.
    """

    version: ModelVersion
    model: str
    commit: str
    facts: dict[str, str]
    params: dict[str, str]

    def table_rows(self) -> list[list[str]]:
        """Return the lineage as rows of a name and a value, for display."""
        facts = self.facts
        version = self.version
        state = {"true": "with uncommitted changes", "false": "clean"}.get(
            facts.get("git.dirty", ""), "?"
        )
        libraries = (
            f"{key.removeprefix('version.')} {facts[key]}" for key in self._keys("version.")
        )
        imported = " (imported: trained elsewhere)" if facts.get("kiln.imported") else ""
        model_id = model_versions.get_model_id(version)
        params = (f"{key}={value}" for key, value in sorted(self.params.items()))
        return [
            ["version", f"{version.name} version {version.version}, {model_id}"],
            ["weights", f"sha256 {facts[model_versions.SHA256_TAG]}"],
            ["commit", f"{self.commit} ({state})"],
            *([key, facts[key]] for key in self._keys("data.")),
            ["fingerprint", facts.get(runs.FINGERPRINT_TAG, "unknown")],
            ["MLflow run", f"{version.run_id}{imported}"],
            ["libraries", ", ".join(libraries)],
            ["machine", ", ".join(facts[key] for key in self._keys("machine."))],
            ["parameters", ", ".join(params)],
            ["verdict", _describe_verdict(version)],
        ]

    def _keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self.facts if key.startswith(prefix))

    def rebuild_commands(self) -> list[str]:
        """Return the shell commands that make the version's weights again."""
        folder = f"rebuild-{self.commit[:12]}"
        return [
            shlex.join(["git", "worktree", "add", folder, self.commit]),
            f"cd {folder} && make setup && source .venv/bin/activate",
            shlex.join(["dvc", "repro", f"train@{self.model}"]),
            shlex.join(["sha256sum", f"models/{self.model}/weights.safetensors"]),
        ]


def get_lineage(client: MlflowClient, reference: str) -> Lineage:
    """Return the lineage of a version.

    Args:
        client: Client of the store.
        reference: `name@alias` or `name/version`.

    Raises:
        UserError: The version does not exist, or Kiln did not register it.
    """
    version = _resolve(client, reference)
    run_tags: dict[str, str] = {}
    params: dict[str, str] = {}
    if version.run_id:
        run_tags, params = runs.get_tags_and_params(client, version.run_id)
    facts = {**run_tags, **version.tags}
    required = (model_versions.SHA256_TAG, runs.MODEL_TAG)
    if missing := [tag for tag in required if tag not in facts]:
        raise UserError(
            f"{version.name} version {version.version} was not registered by Kiln: nothing to "
            f"trace, for it has no tag {' and no tag '.join(missing)}"
        )
    commit = facts.get("git.commit", "unknown")
    return Lineage(version, facts[runs.MODEL_TAG], commit, facts, params)


def _resolve(client: MlflowClient, reference: str) -> ModelVersion:
    parts = _REFERENCE.match(reference)
    if parts is None:
        raise UserError(
            f"{reference!r} is neither name@alias nor name/version (for example "
            "fashion-mnist@champion, fashion-mnist/3)"
        )
    number = parts["version"]
    if number is None:
        aliases = model_versions.get_aliases(client, parts["name"])
        if parts["alias"] not in aliases:
            raise UserError(f"{reference}: no such alias; there are {', '.join(aliases) or 'none'}")
        number = aliases[parts["alias"]]
    return model_versions.get(client, parts["name"], int(number))


def _describe_verdict(version: ModelVersion) -> str:
    try:
        verdict = verdicts.get_verdict(version)
    except UserError:
        return "none: it was never evaluated"
    status = "passed" if verdict.passed else "FAILED"
    gates = ", ".join(f"{g.gate} {g.threshold:g}: {g.value:.4f}" for g in verdict.gates)
    return f"{status} on test split {verdict.test_sha256} ({gates or 'no gates'})"


def check(lineage: Lineage) -> list[CheckResult]:
    """Compare the records of a version with its commit, recipe, data and weights.

    Checks the commit out into a temporary folder and fetches what DVC has for it.

    Raises:
        UserError: The commit is not in this repository, or this version of Kiln cannot read its
            parameters.
    """
    commit = lineage.commit
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        if not checkout(commit, tree):
            raise UserError(f"commit {commit} is not in this repository; nothing can be checked")
        try:
            params = load_params(tree / "params.yaml")
        except UserError as error:
            raise UserError(
                f"params.yaml of that commit cannot be read by this version of Kiln: {error}"
            ) from None
        return [
            CheckResult("commit", MATCHES, commit),
            _check_recipe(lineage, params),
            _compare("data.raw", lineage.facts.get("data.raw.sha256"), _digest_raw(params, tree)),
            *_check_outs(lineage, tree),
        ]


def _check_outs(lineage: Lineage, tree: Path) -> list[CheckResult]:
    """Compare the digests of the splits and the weights with the outs that DVC has."""
    facts = dict(lineage.facts)
    weights = tree / "models" / lineage.model / "weights.safetensors"
    weights_sha256 = facts[model_versions.SHA256_TAG]
    for lock in lock_candidates(lineage.commit):
        fetch_outs(tree, lock)
        if _digest_file(weights) == weights_sha256:
            break
    if model_versions.STATUS_TAG in lineage.version.tags:
        facts["data.test.sha256"] = verdicts.get_verdict(lineage.version).test_sha256
    results = []
    for name, path in _SPLITS.items():
        manifest = tree / path / MANIFEST
        sha256 = Manifest.read(manifest).sha256 if manifest.exists() else None
        results.append(_compare(f"data.{name}", facts.get(f"data.{name}.sha256"), sha256))
    return [*results, _compare("weights", weights_sha256, _digest_file(weights))]


def _compare(fact: str, expected: str | None, actual: str | None) -> CheckResult:
    if expected is None:
        return CheckResult(fact, UNKNOWN, "not recorded")
    if actual is None:
        return CheckResult(fact, UNKNOWN, "not to be had here")
    return CheckResult(fact, MATCHES if expected == actual else DIFFERS, actual)


def _check_recipe(lineage: Lineage, params: Params) -> CheckResult:
    recorded = {k: value for k, value in lineage.params.items() if k.startswith("recipe.")}
    recipe = params.train.models.get(lineage.model)
    if recipe is None:
        reason = f"params.yaml of the commit has no model {lineage.model}"
        return CheckResult("recipe", UNKNOWN, reason)
    if not recorded:
        return CheckResult("recipe", UNKNOWN, "not recorded")
    values = runs.flatten({"recipe": recipe.model_dump(mode="json")})
    current = {key: str(value) for key, value in values.items()}
    # Keys that were added to the schema since then are not compared. Their default is the behaviour
    # of the code before the key existed.
    differences = [
        f"{key} is {current.get(key)}, was {value}"
        for key, value in sorted(recorded.items())
        if current.get(key) != value
    ]
    if differences:
        return CheckResult("recipe", DIFFERS, ", ".join(differences))
    return CheckResult("recipe", MATCHES, f"{len(recorded)} parameters")


def _digest_file(path: Path) -> str | None:
    return sha256_file(path) if path.exists() else None


def _digest_raw(params: Params, tree: Path) -> str | None:
    """Return the digest of the raw images of a checkout, None if they cannot be read."""
    source = params.preprocess.source
    try:
        return open_source(source.model_copy(update={"path": str(tree / source.path)})).sha256
    except UserError:
        return None
