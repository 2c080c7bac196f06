"""Shows how a registered version was made, and checks what of it can be made again. (for a person)"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

from components import provenance
from components.artifacts import Manifest, sha256_file
from components.console import launch, say, table
from components.data import sources
from components.data.shards import MANIFEST
from components.errors import UserError
from components.params import load_params
from components.tracking import registry, runs, store

_REFERENCE = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)(?:@(?P<alias>[a-z][a-z0-9_-]*)|/(?P<version>[0-9]+))$")

_SPLITS = {"prepared": "data/prepared/train", "training": "data/augmented/train", "validation": "data/prepared/val"}


def run(reference: str, check: bool) -> bool:
    """Prints the lineage of `name@alias` or `name/version`; with `check`, rebuilds what can be rebuilt.

    Returns whether nothing that was checked differs.

    Raises:
        UserError: there is no such version.
    """
    client = store.connect()
    version = _resolve(client, reference)
    run_tags, params = runs.facts(client, version.run_id)
    facts = {**run_tags, **version.tags}
    model, commit = facts["kiln.model"], facts.get("git.commit", "unknown")
    rows = [
        ["version", f"{version.name} version {version.version}, {registry.model_id(version)}"],
        ["weights", f"sha256 {facts[registry.SHA256]}"],
        [
            "commit",
            f"{commit} ({ {'true': 'with uncommitted changes', 'false': 'clean'}.get(facts.get('git.dirty', ''), '?') })",
        ],
        *([key, facts[key]] for key in sorted(facts) if key.startswith("data.")),
        ["fingerprint", facts.get(runs.FINGERPRINT, "unknown")],
        ["MLflow run", f"{version.run_id}" + (" (imported: trained elsewhere)" if facts.get("kiln.imported") else "")],
        ["libraries", ", ".join(f"{k.removeprefix('version.')} {facts[k]}" for k in sorted(facts) if k.startswith("version."))],
        ["machine", ", ".join(facts[key] for key in sorted(facts) if key.startswith("machine."))],
        ["parameters", ", ".join(f"{key}={value}" for key, value in sorted(params.items()))],
        ["verdict", _verdict(version)],
    ]
    table(reference, ["", "how it was made"], rows)
    say("to make it again:")
    for command in _commands(commit, model):
        say(f"  {command}")
    return _check(commit, model, facts, params) if check else True


def _resolve(client: Any, reference: str) -> Any:
    parts = _REFERENCE.match(reference)
    if parts is None:
        raise UserError(
            f"{reference!r} is neither name@alias nor name/version (for example fashion-mnist@champion, fashion-mnist/3)"
        )
    number = parts["version"]
    if number is None:
        held = registry.aliases(client, parts["name"])
        if parts["alias"] not in held:
            raise UserError(f"{reference}: no such alias; there are {', '.join(held) or 'none'}")
        number = held[parts["alias"]]
    return registry.get(client, parts["name"], int(number))


def _verdict(version: Any) -> str:
    try:
        verdict = registry.verdict_of(version)
    except UserError:
        return "none: it was never evaluated"
    gates = ", ".join(f"{g.gate} {g.threshold:g}: {g.value:.4f}" for g in verdict.gates)
    return f"{'passed' if verdict.passed else 'FAILED'} on test split {verdict.test_sha256} ({gates or 'no gates'})"


def _commands(commit: str, model: str) -> list[str]:
    folder = f"rebuild-{commit[:12]}"
    return [
        shlex.join(["git", "worktree", "add", folder, commit]),
        f"cd {folder} && make setup && source .venv/bin/activate",
        shlex.join(["dvc", "repro", f"train@{model}"]),
        shlex.join(["sha256sum", f"models/{model}/weights.safetensors"]),
    ]


def _check(commit: str, model: str, facts: dict[str, str], params: dict[str, str]) -> bool:
    """Checks the commit out into a temporary folder, fetches what DVC has for it, and compares fact by fact."""
    results: list[tuple[str, str, str]] = []

    def compare(fact: str, expected: str | None, found: str | None) -> None:
        if expected is None or found is None:
            results.append((fact, "cannot be checked", "not recorded" if expected is None else "not to be had here"))
        else:
            results.append((fact, "matches" if expected == found else "DIFFERS", found))

    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        if not provenance.checkout(commit, tree):
            say(f"trace: commit {commit} is not in this repository; nothing can be checked")
            return False
        results.append(("commit", "matches", commit))
        try:
            at_commit = load_params(tree / "params.yaml")
        except UserError as error:
            say(f"trace: params.yaml of that commit cannot be read by this version of Kiln: {error}")
            return False
        recipe = at_commit.train.models.get(model)
        recorded = {key: value for key, value in params.items() if key.startswith("recipe.")}
        there = (
            {key: str(value) for key, value in runs.flatten({"recipe": recipe.model_dump(mode="json")}).items()}
            if recipe
            else {}
        )
        compare("recipe", json.dumps(recorded, sort_keys=True), json.dumps(there, sort_keys=True))
        source = at_commit.preprocess.source
        try:
            raw: str | None = sources.load(source.model_copy(update={"path": str(tree / source.path)})).sha256
        except UserError:
            raw = None
        compare("data.raw", facts.get("data.raw.sha256"), raw)
        weights = tree / "models" / model / "weights.safetensors"
        for lock in provenance.locks(commit):
            provenance.dvc_fetch(tree, lock)
            if weights.exists() and sha256_file(weights) == facts.get(registry.SHA256):
                break
        for fact, path in _SPLITS.items():
            manifest = tree / path / MANIFEST
            found = Manifest.read(manifest).sha256 if manifest.exists() else None
            compare(f"data.{fact}", facts.get(f"data.{fact}.sha256"), found)
        compare("weights", facts.get(registry.SHA256), sha256_file(weights) if weights.exists() else None)
    table("checked against the commit", ["fact", "", "found"], [list(row) for row in results])
    return all(outcome != "DIFFERS" for _, outcome, _ in results)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference", help="name@alias or name/version")
    parser.add_argument("--check", action="store_true", help="check out the commit and compare what can be had of it")
    args = parser.parse_args(argv)
    if not run(args.reference, args.check):
        raise SystemExit(1)


if __name__ == "__main__":
    launch(main)
