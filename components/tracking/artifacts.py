"""Files in the store: where they may be fetched from, and models downloaded file by file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException

from components.errors import UserError
from components.tracking import store

ROOTS_VARIABLE = "KILN_ARTIFACT_ROOTS"
_PROXIED = "mlflow-artifacts"
_MAX_TEXT_BYTES = 1 << 20
# Formats, and examples of images as text, whose size depends on the model or on the test split.
_LARGE_SUFFIXES = (".safetensors", ".pt2", ".parquet", "input_example.json")


def download_file(client: MlflowClient, run_id: str, path: str, label: str) -> bytes | None:
    """Return the content of an artifact of a run, None if there is none.

    Args:
        client: Client of the store.
        run_id: The run.
        path: Path of the file in the run's artifacts.
        label: The file's name, for messages.

    Raises:
        UserError: It is not where the tracking server keeps files, is not a regular file, cannot be
            read, or there is no room for it.
    """
    require_own_location(client.get_run(run_id).info.artifact_uri, label)
    with tempfile.TemporaryDirectory() as scratch:
        with _explain_unreadable(label):
            listed = client.list_artifacts(run_id, str(PurePosixPath(path).parent))
        info = next((info for info in listed if info.path == path), None)
        if info is None:
            return None
        if info.is_dir:
            raise UserError(f"{label} cannot be read: {path} of run {run_id} is a folder")
        _require_room(label, {path: info.file_size}, Path(scratch))
        with _explain_unreadable(label):
            uri = f"runs:/{run_id}/{path}"
            return Path(download_artifacts(artifact_uri=uri, dst_path=scratch)).read_bytes()


def require_own_location(location: str, label: str) -> None:
    """Check that files are where the tracking server keeps them.

    A user who may write to the server chooses the location of an experiment's files. Fetching from
    there would use the credentials of the reader: the keys of object stores, or the password of the
    tracking server for another host. Nothing is checked for a store that is a database: its writers
    are its administrators.

    Args:
        location: URI of the files.
        label: The object that the files belong to, for the message.

    Raises:
        UserError: The location is neither behind the server nor below an address that the
            environment variable `KILN_ARTIFACT_ROOTS` allows (separated by spaces).
    """
    if not store.uses_server():
        return
    parts = urlsplit(location)
    if parts.scheme == _PROXIED and parts.netloc in ("", urlsplit(store.get_uri()).netloc):
        return
    roots = os.environ.get(ROOTS_VARIABLE, "").split()
    if ".." in PurePosixPath(parts.path).parts or not any(
        location == root or location.startswith(root.rstrip("/") + "/") for root in roots
    ):
        raise UserError(
            f"the files of {label} are at {location}, not behind the tracking server; your "
            f"credentials are not used there. Allowed are {_PROXIED}: and the addresses in "
            f"{ROOTS_VARIABLE} ({' '.join(roots) or 'none'}); add it if your site keeps files there"
        )


def download_model(
    client: MlflowClient, model_id: str, names: Set[str], folder: Path, label: str
) -> tuple[LoggedModel, Path]:
    """Download a logged model that consists of exactly the files `names`.

    The list of files and their sizes are checked first. Then they are downloaded and the list is
    checked again. Nothing is parsed.

    Args:
        client: Client of the store.
        model_id: The logged model.
        names: Relative paths of all files of such a model.
        folder: An empty folder.
        label: The model's name, for messages.

    Returns:
        The logged model, and the folder with its files: `folder` or one in it.

    Raises:
        UserError: The model is gone, another file is there, one is missing or is not a regular
            file, a text file has more than 1 MiB, or there is no room for them.
    """
    with store.explain_denial(f"read {label}", store.READERS):
        model = _get_model(client, model_id, label)
        require_own_location(model.artifact_location, label)
        with _explain_unreadable(f"the files of {label}"):
            sizes = dict(_list_files(client, model_id, names))
        _require_exact(label, model.artifact_location, set(sizes), names)
        _require_room(label, sizes, folder)
        with _explain_unreadable(f"the files of {label}"):
            # With the address models:/ID, MLflow would add a file of its own.
            path = download_artifacts(artifact_uri=model.artifact_location, dst_path=str(folder))
    _require_exact(label, model.artifact_location, set(_walk(Path(path))), names)
    return model, Path(path)


@contextmanager
def _explain_unreadable(label: str) -> Iterator[None]:
    """Turn errors of MLflow and of the disk, other than a server's refusal, into a `UserError`.

    Links, pipes and folders in place of files are among their causes.
    """
    try:
        yield
    except (OSError, MlflowException) as error:
        if isinstance(error, MlflowException) and store.is_denial(error):
            raise
        raise UserError(f"{label} cannot be read ({type(error).__name__}: {error})") from None


def _get_model(client: MlflowClient, model_id: str, label: str) -> LoggedModel:
    try:
        return client.get_logged_model(model_id)
    except MlflowException as error:
        if not store.is_missing(error):
            raise
        raise UserError(f"{label} has no files: its model {model_id} was deleted") from None


def _list_files(
    client: MlflowClient, model_id: str, names: Set[str]
) -> Iterator[tuple[str, int | None]]:
    """Yield path and size of each file. A folder that is none of `names`' is one with a slash."""
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    for folder in folders:
        for info in client.list_logged_model_artifacts(model_id, None if folder == "." else folder):
            if not info.is_dir:
                yield info.path, info.file_size
            elif info.path not in folders:
                yield f"{info.path}/", None


def _walk(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            yield f"{relative} (not a regular file)"
        elif path.is_file():
            yield relative


def _require_exact(label: str, location: str, found: Set[str], names: Set[str]) -> None:
    if unexpected := sorted(found - names):
        raise UserError(
            f"{label} is refused before anything of it is read: it contains "
            f"{', '.join(unexpected[:5])}, which Kiln did not store"
        )
    if missing := sorted(names - found):
        raise UserError(
            f"{label} is refused before anything of it is read: {', '.join(missing)} is missing "
            f"at {location}; its files are gone, or it was not stored by this version of Kiln"
        )


def _require_room(label: str, sizes: dict[str, int | None], folder: Path) -> None:
    for name, size in sizes.items():
        if not name.endswith(_LARGE_SUFFIXES) and (size or 0) > _MAX_TEXT_BYTES:
            raise UserError(
                f"{label} is refused before anything of it is read: {name} has {size:,} bytes, "
                f"Kiln stores at most {_MAX_TEXT_BYTES:,} there"
            )
    needed = sum(size or 0 for size in sizes.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{label} has {needed:,} bytes, {folder.parent} has room for {free:,}; free some, or "
            "set TMPDIR to a larger disk"
        )
