"""The origin of a registered version, and a check against what can be rebuilt of it."""

from __future__ import annotations

import re
import shlex
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from components.data.format.shards import MANIFEST
from components.data.sources.opening import open_source
from components.errors import UserError
from components.files import sha256_file
from components.git_cli import GitError, git
from components.params import Params, load_params
from components.params.init import PRETRAINED, InitSource
from components.paths import ROOT
from components.records.splits import Manifest
from components.registry import HISTORY_SUFFIX, model_versions, verdicts
from components.registry.checkout import checkout, fetch_outs, lock_candidates
from components.tracking import runs

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # SHA-1 or SHA-256
_REQUIRED_TAGS = {
    model_versions.SHA256_TAG: re.compile("[0-9a-f]{64}"),
    runs.MODEL_TAG: re.compile("[a-z0-9][a-z0-9_-]{0,62}"),  # a name in train.models
}

_INIT_DIGEST = "data.init.sha256"
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
    `commit` is None if none is recorded, and `run_exists` False if the run was deleted permanently.
    """

    version: ModelVersion
    model: str
    commit: str | None
    facts: dict[str, str]
    params: dict[str, str]
    run_exists: bool = True

    def table_rows(self) -> list[list[str]]:
        """Return the lineage as rows of a name and a value, for display."""
        facts = self.facts
        version = self.version
        libraries = (
            f"{key.removeprefix('version.')} {facts[key]}" for key in self._keys("version.")
        )
        params = (f"{key}={value}" for key, value in sorted(self.params.items()))
        model_id = model_versions.get_model_id(version)
        return [
            ["version", f"{version.name} version {version.version}, {model_id}"],
            ["weights", f"sha256 {facts[model_versions.SHA256_TAG]}"],
            ["starting weights", self._describe_start()],
            ["commit", self._describe_commit()],
            *([key, facts[key]] for key in self._keys("data.") if key != _INIT_DIGEST),
            ["fingerprint", facts.get(runs.FINGERPRINT_TAG, "unknown")],
            ["MLflow run", self._describe_run()],
            ["libraries", ", ".join(libraries) or "unknown"],
            ["machine", ", ".join(facts[key] for key in self._keys("machine.")) or "unknown"],
            ["parameters", ", ".join(params) or "unknown"],
            ["verdict", _describe_verdict(version)],
        ]

    def _describe_start(self) -> str:
        """Return where the starting weights came from, and their digest."""
        sha256 = self.facts.get(_INIT_DIGEST)
        if sha256 is None:
            return "random"
        origin = self.facts.get(runs.INIT_TAG) or self.params.get("recipe.init", "unknown origin")
        location, _, version = origin.partition("#version=")
        if location == PRETRAINED:
            location = f"pretrained, of {self.params.get('recipe.architecture', self.model)}"
        return f"{location}{version and f', version {version}'}, sha256 {sha256}"

    @property
    def dirty(self) -> bool:
        """True unless the tree is known to have been clean."""
        return self.facts.get("git.dirty") != "false"

    def _describe_commit(self) -> str:
        if self.commit is None:
            return "unknown"
        states = {"true": "with uncommitted changes", "false": "clean"}
        state = states.get(self.facts.get("git.dirty", ""), "perhaps with uncommitted changes")
        return f"{self.commit} ({state})"

    def _describe_run(self) -> str:
        run_id = self.version.run_id or "none"
        if not self.run_exists:
            return f"{run_id} (not in this registry)"
        return f"{run_id} (imported: trained elsewhere)" if self._imported else run_id

    @property
    def _imported(self) -> bool:
        return "kiln.imported" in self.facts

    def _keys(self, prefix: str) -> list[str]:
        return sorted(key for key in self.facts if key.startswith(prefix))

    def find_obstacle(self) -> str | None:
        """Return the reason for which this repository cannot make the weights again, else None."""
        if self.commit is None:
            return f"its commit is unknown: {self._explain_missing_commit()}"
        try:
            git(ROOT, "cat-file", "-e", f"{self.commit}^{{commit}}")
        except GitError:
            return f"commit {self.commit} is not in this repository; `git fetch` may bring it"
        return None

    def _explain_missing_commit(self) -> str:
        if not self.run_exists:
            return "only its run had it, which is not in this registry"
        if self._imported:
            return "it was imported, and only the store of its training has it"
        return "the training was in no git repository"

    def rebuild_commands(self) -> list[str]:
        """Return the shell commands that make the version's weights again, if nothing prevents it.

        With uncommitted changes at the training they may make other weights.
        """
        if self.commit is None:
            return []
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
    version = model_versions.resolve(client, reference)
    _require_registered_by_kiln(version)
    run_tags: dict[str, str] = {}
    params: dict[str, str] = {}
    if version.run_id:
        run_tags, params = runs.get_tags_and_params(client, version.run_id)
    facts = {**run_tags, **version.tags}
    commit = facts.get("git.commit", "")
    return Lineage(
        version=version,
        model=version.tags[runs.MODEL_TAG],
        commit=commit if _COMMIT.fullmatch(commit) else None,
        facts=facts,
        params=params,
        run_exists=bool(run_tags),
    )


def _require_registered_by_kiln(version: ModelVersion) -> None:
    """Raise `UserError` unless a version has the tags that `register` writes.

    The run's tags do not count: any version can be registered from the run of a training.
    """
    if version.name.endswith(HISTORY_SUFFIX):
        name = version.name.removesuffix(HISTORY_SUFFIX)
        raise UserError(
            f"{version.name} holds no models but the moves of the aliases of {name}: "
            f"`python -m pipelines.promote --history --name {name}` shows them"
        )
    for tag, pattern in _REQUIRED_TAGS.items():
        value = version.tags.get(tag)
        if value is None or not pattern.fullmatch(value):
            found = "there is no such tag" if value is None else f"it is {value[:80]!r}"
            raise UserError(
                f"{version.name} version {version.version} was not registered by Kiln, or was "
                f"altered: nothing to trace, for its tag {tag} should be {pattern.pattern} and "
                f"{found}"
            )


def _describe_verdict(version: ModelVersion) -> str:
    if verdicts.VERDICT_TAG not in version.tags:
        return "none: it was never evaluated"
    try:
        verdict = verdicts.get_verdict(version)
    except UserError as error:
        return f"none: {error}"
    status = "passed" if verdict.passed else "FAILED"
    gates = ", ".join(f"{g.gate} {g.threshold:g}: {g.value:.4f}" for g in verdict.gates)
    return f"{status} on test split {verdict.test_sha256} ({gates or 'no gates'})"


def check(lineage: Lineage) -> list[CheckResult]:
    """Compare the records of a version with its commit, recipe, data and weights.

    Checks the commit out into a temporary folder and fetches what DVC has for it.

    Raises:
        UserError: The commit is unknown or not in this repository, or this version of Kiln cannot
            read its parameters.
    """
    commit = lineage.commit
    if commit is None:
        raise UserError(f"nothing can be checked: {lineage.find_obstacle()}")
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
            *_check_outs(lineage, commit, tree),
        ]


def _check_outs(lineage: Lineage, commit: str, tree: Path) -> list[CheckResult]:
    """Compare the digests of the splits and the weights with the outs that DVC has."""
    facts = dict(lineage.facts)
    weights = tree / "models" / lineage.model / "weights.safetensors"
    weights_sha256 = facts[model_versions.SHA256_TAG]
    for lock in lock_candidates(commit):
        fetch_outs(tree, lock)
        if _digest_file(weights) == weights_sha256:
            break
    with suppress(UserError):  # never evaluated, or by another Kiln
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
        if _strip_pin(key, current.get(key)) != _strip_pin(key, value)
    ]
    if differences:
        return CheckResult("recipe", DIFFERS, ", ".join(differences))
    return CheckResult("recipe", MATCHES, f"{len(recorded)} parameters")


def _strip_pin(key: str, value: str | None) -> str | None:
    """Return a parameter without a pin: runs record the version behind an alias, but no digest."""
    if key != "recipe.init" or value is None:
        return value
    with suppress(ValueError):
        return InitSource.parse(value).location
    return value


def _digest_file(path: Path) -> str | None:
    return sha256_file(path) if path.exists() else None


def _digest_raw(params: Params, tree: Path) -> str | None:
    """Return the digest of the raw images of a checkout, None if they cannot be read."""
    source = params.preprocess.source
    try:
        return open_source(source.model_copy(update={"path": str(tree / source.path)})).sha256
    except UserError:
        return None
