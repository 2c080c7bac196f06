"""The nodes of the connected cluster: something done on each of them, and a stage's data brought to each of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.console import say
from components.data.format.shards import read_manifest
from components.dvc_cli import dvc, outs_containing
from components.errors import UserError
from components.files import exclusive_lock, sha256_file
from components.paths import ROOT
from components.provenance import COMMIT
from components.ray_session.code_package import LOCAL_CONFIG, public_config

# What DVC needs to know of a repository to fetch outs of its stages.
_DVC_FILES = ("dvc.yaml", "dvc.lock", "params.yaml", ".dvc/config", ".dvcignore")
_ANSWER_S = 120.0


def scratch() -> Path:
    """This node's own disk for copies that can be had again: `KILN_SCRATCH`, else a folder of this user's in /tmp."""
    named = os.environ.get("KILN_SCRATCH")
    path = Path(named) if named else Path(tempfile.gettempdir()) / f"kiln-{os.getuid()}"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise UserError(f"{path} belongs to somebody else; set KILN_SCRATCH to a folder of your own on each node")
    return path


def every_node(
    function: Callable[..., Any], *arguments: Any, cpus: float = 0, first_only: bool = False, timeout_s: float = _ANSWER_S
) -> dict[str, Any]:
    """Calls `function(*arguments)` once on every living node that has `cpus` cores; returns node name -> result.

    Raises:
        UserError: a node does not answer within `timeout_s`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=1)(_call)
    names: dict[Any, str] = {}
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU", 0) >= cpus and not (first_only and names):
            where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            pending = task.options(scheduling_strategy=where).remote(function, *arguments)
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            names[pending] = f"{name} {node['NodeID'][:8]}" if name in names.values() else name
    done, late = ray.wait(list(names), num_returns=len(names), timeout=timeout_s)
    if late:
        raise UserError(f"no answer within {timeout_s:g} s from {', '.join(sorted(names[ref] for ref in late))}")
    try:
        return {names[ref]: ray.get(ref) for ref in done}
    except ray.exceptions.RayTaskError:
        raise  # not the node's fault
    except ray.exceptions.RayError as error:
        raise UserError(f"a node was lost, or could not start a process, while it was asked: {error}") from None


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


@dataclass(frozen=True)
class Data:
    """Splits (`components.data.format.shards`) that a stage reads, as something that can be sent to any node: there, `at` says
    where one is, and fetches it first if need be. `digests` maps a path relative to the repository to its manifest's."""

    root: Path
    digests: dict[str, str]
    files: dict[str, bytes]

    def here(self, path: str) -> Path | None:
        """Where this node has a split, without fetching it."""
        for folder in (self.root, self._copy()):
            try:
                if read_manifest(folder / path).sha256 == self.digests[path]:
                    return folder / path
            except UserError:
                continue
        return None

    def at(self, path: str | Path) -> Path:
        """Where this node has a split, after fetching all of them from the DVC remote if it has not.

        Raises:
            UserError: the remote does not have them, or other bytes.
        """
        name = os.path.relpath(path, self.root) if Path(path).is_absolute() else str(path)
        found = self.here(name)
        if found is None:
            with exclusive_lock(self._copy().with_suffix(".lock"), str(self._copy()), wait=lambda: None):
                if self.here(name) is None:
                    self._fetch()
            found = self._copy() / name
        return found

    def missing(self) -> list[str]:
        return [path for path in self.digests if self.here(path) is None]

    def fetch(self) -> str:
        """Brings everything to this node; what went wrong, if anything."""
        try:
            for path in self.digests:
                self.at(path)
        except (UserError, OSError) as error:
            return str(error)
        return ""

    def _copy(self) -> Path:
        key = hashlib.sha256(repr(sorted(self.digests.items())).encode()).hexdigest()
        return scratch() / "data" / key[:32]

    def _fetch(self) -> None:
        """A folder with DVC's files and a cache of its own; it takes its place once every shard's digest is right."""
        copy = self._copy()
        fresh = copy.with_suffix(".partial")
        for folder in (fresh, copy):
            shutil.rmtree(folder, ignore_errors=True)
        for name, content in self.files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(content)
        dvc(fresh, "config", "--local", "cache.type", "hardlink,reflink,copy")
        try:
            dvc(fresh, "pull", *self.digests)
            for path, expected in self.digests.items():
                _verify(fresh / path, expected)
        except UserError:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        fresh.rename(copy)


def _verify(folder: Path, expected: str) -> None:
    manifest = read_manifest(folder)
    wrong = [shard.file for shard in manifest.shards if sha256_file(folder / shard.file) != shard.sha256]
    if manifest.sha256 != expected or wrong:
        raise UserError(
            f"the DVC remote has other bytes of {folder.name} than were made "
            f"({', '.join(wrong) or f'manifest {manifest.sha256[:12]} instead of {expected[:12]}'}); `dvc push` them again"
        )


def provide(paths: Sequence[Path], cpus: float = 0) -> Data:
    """Sees to it that every node with `cpus` cores can read these splits, before work starts: nodes that do not see the
    folders themselves fetch them from the DVC remote, to which they are pushed first. Without a cluster nothing is asked.

    Raises:
        UserError: a node cannot have them; says which and why.
    """
    digests = {os.path.relpath(path, ROOT): read_manifest(path).sha256 for path in paths}
    files = {name: (ROOT / name).read_bytes() for name in _DVC_FILES if (ROOT / name).exists()}
    data = Data(ROOT, digests, files | {LOCAL_CONFIG: public_config(ROOT)})
    if not os.environ.get("RAY_ADDRESS"):
        return data
    in_job = COMMIT in os.environ
    if in_job:
        # Everything so far: another attempt, on another cluster even, takes it up.
        dvc(ROOT, "push", "--run-cache")
    lacking = {node for node, missing in every_node(data.missing, cpus=cpus).items() if missing}
    if lacking:
        outs = outs_containing(list(digests), lacking)
        say(f"data: to {len(lacking)} nodes through the DVC remote: {', '.join(digests)}")
        if not in_job:
            dvc(ROOT, "push", *outs)
        failed = {node: error for node, error in every_node(data.fetch, cpus=cpus, timeout_s=3600).items() if error}
        if failed:
            lines = "\n".join(f"  {node}: {error}" for node, error in sorted(failed.items()))
            raise UserError(f"{len(failed)} nodes cannot have the data:\n{lines}")
    return data
