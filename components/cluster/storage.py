"""Where checkpoints and results live: a folder that every node shares, or a URL of an object store."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pyarrow as pa
from pyarrow.fs import FileSystem, FileType

from components.errors import UserError
from components.provenance import ROOT


def resolve() -> str:
    """What `KILN_STORAGE` names, as an absolute path or a URL that `pyarrow.fs.FileSystem.from_uri` takes as it is; without
    it the repository's `.kiln`.

    For `s3://bucket/prefix` the service's address comes from the URL's query (`?endpoint_override=...`), else from
    AWS_ENDPOINT_URL; the region likewise, from `region` or AWS_REGION. Credentials come from the environment of each node
    (AWS_ACCESS_KEY_ID, a profile, the instance's role): they are refused in the URL, which ends up in logs.

    Raises:
        UserError: it is neither, or holds a password.
    """
    named = os.environ.get("KILN_STORAGE", "").strip()
    if not named:
        return str(ROOT / ".kiln")
    if "://" not in named:
        if not Path(named).is_absolute():
            raise UserError(f"KILN_STORAGE={named}: an absolute path or a URL such as s3://bucket/prefix is needed")
        return str(Path(named))
    parts = urlsplit(named)
    if "@" in parts.netloc:
        raise UserError(
            f"KILN_STORAGE has credentials in it ({parts.scheme}://...@{parts.netloc.rpartition('@')[2]}); leave them to the "
            "environment of the nodes (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )
    if parts.scheme != "s3":
        return named.rstrip("/")
    query = dict(parse_qsl(parts.query))
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    # Without a region Arrow asks Amazon for the bucket's: another service cannot answer that.
    found = {"endpoint_override": endpoint, "region": region or ("us-east-1" if endpoint else None)}
    query = {key: value for key, value in found.items() if value} | query
    return parts._replace(path=parts.path.rstrip("/"), query=urlencode(query, quote_via=quote)).geturl()


def below(storage: str, *names: str) -> str:
    """The same storage, further down: names go before a URL's query."""
    head, mark, query = storage.partition("?")
    return "/".join([head.rstrip("/"), *names]) + mark + query


def open_storage(storage: str) -> tuple[FileSystem, str]:
    """Arrow's file system of a path or URL, and the path within it.

    Raises:
        UserError: Arrow knows no such storage.
    """
    try:
        files, path = FileSystem.from_uri(storage if "://" in storage else Path(storage).as_uri())
    except (pa.ArrowException, ValueError, OSError, ImportError) as error:
        raise UserError(f"KILN_STORAGE={storage} cannot be used: {error}") from None
    return files, path


def ready() -> str:
    """The storage for the connected session. On a cluster it is tried from every node first, and must be one that all nodes
    can share.

    Raises:
        UserError: it will not do; says why, and from which nodes.
    """
    import ray

    if not os.environ.get("RAY_ADDRESS"):
        return resolve()
    alive = sum(node["Alive"] for node in ray.nodes())
    if alive > 1 and not os.environ.get("KILN_STORAGE"):
        raise UserError(
            f"the cluster has {alive} nodes and KILN_STORAGE is not set: name a folder that all of them share, or a URL such "
            "as s3://bucket/prefix, in every node's environment"
        )
    check(resolve())
    return resolve()


def check(storage: str) -> None:
    """Writes from every node of the connected cluster and reads on every node what all of them wrote.

    Raises:
        UserError: says which nodes cannot, and why. A folder that exists everywhere without being shared is found out too.
    """
    from components.cluster.nodes import every_node

    mark = secrets.token_hex(8)
    folder = below(storage, f".probe-{mark}")
    wrote = every_node(_write, folder, mark)
    try:
        _refuse(storage, {node: error for node, (_, error) in wrote.items()})
        names = [name for name, _ in wrote.values()]
        _refuse(storage, every_node(_read, folder, names, mark))
    finally:
        every_node(_remove, folder, first_only=True)


def _refuse(storage: str, errors: dict[str, str]) -> None:
    wrong = [f"  {node}: {error}" for node, error in errors.items() if error]
    if wrong:
        raise UserError(
            f"checkpoint storage {storage} (KILN_STORAGE) does not work from {len(wrong)} of {len(errors)} nodes:\n"
            + "\n".join(wrong)
            + "\nname a folder that all nodes share, or a URL such as s3://bucket/prefix with its credentials in each "
            "node's environment"
        )


def _write(folder: str, mark: str) -> tuple[str, str]:
    """The name of this node's file and what went wrong, if anything."""
    name = secrets.token_hex(8)
    try:
        files, path = open_storage(folder)
        files.create_dir(path, recursive=True)
        with files.open_output_stream(f"{path}/{name}") as stream:
            stream.write(mark.encode())
    except (OSError, pa.ArrowException, UserError) as error:
        return name, f"cannot write: {error}"
    return name, ""


def _read(folder: str, names: list[str], mark: str) -> str:
    try:
        files, path = open_storage(folder)
        missing = 0
        for name in names:
            if files.get_file_info(f"{path}/{name}").type != FileType.File:
                missing += 1
                continue
            with files.open_input_stream(f"{path}/{name}") as stream:
                if stream.read() != mark.encode():
                    return "reads other bytes than were written"
    except (OSError, pa.ArrowException, UserError) as error:
        return f"cannot read: {error}"
    return f"does not see what {missing} of {len(names)} nodes wrote: it is not shared" if missing else ""


def _remove(folder: str) -> None:
    try:
        files, path = open_storage(folder)
        files.delete_dir(path)
    except (OSError, pa.ArrowException, UserError):
        pass  # what could not be written need not be removed
