"""Dataset splits on every node of the cluster, brought there through the DVC remote."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.console import echo
from components.data.format.shards import read_manifest
from components.dvc_cli import dvc, outs_containing
from components.errors import UserError
from components.files import exclusive_lock, sha256_file
from components.paths import ROOT
from components.provenance import COMMIT
from components.ray_session.code_package import LOCAL_CONFIG, render_public_config
from components.ray_session.nodes import node_scratch, run_on_every_node
from components.ray_session.session import is_cluster

# The files that DVC needs to fetch outs of a repository's stages.
_DVC_FILES = ("dvc.yaml", "dvc.lock", "params.yaml", ".dvc/config", ".dvcignore")
_FETCH_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class DistributedSplits:
    """Splits (`components.data.format.shards`) that every node can read.

    The object is small and is sent to the nodes. A node that does not see the driver's folders
    keeps a copy of the splits in its scratch folder.
    """

    root: Path
    """The driver's repository."""
    digests: dict[str, str]
    """SHA-256 of each split's manifest, by the split's path relative to `root`."""
    dvc_files: dict[str, bytes]
    """Content of the files that DVC needs to fetch the splits, by path relative to `root`."""

    def find(self, path: str) -> Path | None:
        """Return the folder of a split on this node, or None if the split must be fetched."""
        # The folder of copies is made only if the driver's folder does not have the split.
        return self._find_in(self.root, path) or self._find_in(self._copy(), path)

    def _find_in(self, folder: Path, path: str) -> Path | None:
        try:
            matches = read_manifest(folder / path).sha256 == self.digests[path]
        except UserError:
            return None
        return folder / path if matches else None

    def locate(self, path: str | Path) -> Path:
        """Return the folder of a split on this node, after fetching all splits if need be.

        Args:
            path: relative to `root`, or absolute as on the driver.

        Raises:
            UserError: the DVC remote lacks a split, or has other bytes.
        """
        name = os.path.relpath(path, self.root) if Path(path).is_absolute() else str(path)
        folder = self.find(name)
        if folder is None:
            copy = self._copy()
            with exclusive_lock(copy.with_suffix(".lock"), str(copy), wait=lambda: None):
                if self.find(name) is None:  # another process may have fetched it meanwhile
                    self._fetch()
            folder = copy / name
        return folder

    def list_missing(self) -> list[str]:
        """Return the paths of the splits that this node lacks."""
        return [path for path in self.digests if self.find(path) is None]

    def fetch_missing(self) -> str:
        """Fetch the splits that this node lacks; return an error message, empty on success."""
        try:
            for path in self.digests:
                self.locate(path)
        except (UserError, OSError) as error:
            return str(error)
        return ""

    def _copy(self) -> Path:
        """Return the folder of this node's copy, which is named after the digests."""
        key = hashlib.sha256(repr(sorted(self.digests.items())).encode()).hexdigest()
        return node_scratch() / "data" / key[:32]

    def _fetch(self) -> None:
        """Pull the splits into a new DVC repository with a cache of its own.

        The folder gets its final name once the digests of all shards are verified.
        """
        copy = self._copy()
        partial = copy.with_suffix(".partial")
        for folder in (partial, copy):
            shutil.rmtree(folder, ignore_errors=True)
        for name, content in self.dvc_files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        dvc(partial, "config", "--local", "cache.type", "hardlink,reflink,copy")
        try:
            dvc(partial, "pull", *self.digests)
            for path, manifest_sha256 in self.digests.items():
                _verify(partial / path, manifest_sha256)
        except UserError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.rename(copy)


def _verify(split: Path, manifest_sha256: str) -> None:
    manifest = read_manifest(split)
    damaged = [s.file for s in manifest.shards if sha256_file(split / s.file) != s.sha256]
    if manifest.sha256 != manifest_sha256 or damaged:
        difference = (
            ", ".join(damaged)
            or f"manifest {manifest.sha256[:12]} instead of {manifest_sha256[:12]}"
        )
        raise UserError(
            f"the DVC remote has other bytes of {split.name} than were made ({difference}); "
            "`dvc push` them again"
        )


def distribute_splits(paths: Sequence[Path], min_cpus: float = 0) -> DistributedSplits:
    """Make splits readable on every node with `min_cpus` cores, before work starts.

    Nodes that do not see the driver's folders fetch the splits from the DVC remote, to which the
    driver pushes them first. Without a cluster (`RAY_ADDRESS` is not set) nothing is done.

    Args:
        paths: folders of splits below the repository.
        min_cpus: nodes with fewer cores run no workers and need no data.

    Raises:
        UserError: a node cannot get the splits. The message names the nodes and the reasons.
    """
    digests = {os.path.relpath(path, ROOT): read_manifest(path).sha256 for path in paths}
    files = {name: (ROOT / name).read_bytes() for name in _DVC_FILES if (ROOT / name).exists()}
    splits = DistributedSplits(ROOT, digests, files | {LOCAL_CONFIG: render_public_config(ROOT)})
    if not is_cluster():
        return splits
    in_job = COMMIT in os.environ
    if in_job:
        # Push all results so far: another attempt, even on another cluster, continues from them.
        dvc(ROOT, "push", "--run-cache")
    missing = run_on_every_node(splits.list_missing, min_cpus=min_cpus)
    if nodes := {node for node, lacking in missing.items() if lacking}:
        outs = outs_containing(list(digests), nodes)
        echo(f"data: to {len(nodes)} nodes through the DVC remote: {', '.join(digests)}")
        if not in_job:
            dvc(ROOT, "push", *outs)
        _fetch_on_nodes(splits, min_cpus)
    return splits


def _fetch_on_nodes(splits: DistributedSplits, min_cpus: float) -> None:
    errors = run_on_every_node(splits.fetch_missing, min_cpus=min_cpus, timeout_s=_FETCH_TIMEOUT_S)
    failed = {node: error for node, error in errors.items() if error}
    if failed:
        lines = "\n".join(f"  {node}: {error}" for node, error in sorted(failed.items()))
        raise UserError(f"{len(failed)} nodes cannot have the data:\n{lines}")
