"""The storage of checkpoints: a folder that every node shares, or a URL of an object store."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

import pyarrow as pa

from components.errors import UserError
from components.paths import STATE
from components.ray_session.nodes import living_nodes, run_on_every_node, run_on_one_node
from components.ray_session.session import is_cluster
from components.storage import join_uri, open_store


def resolve() -> str:
    """Return the storage that `KILN_STORAGE` names, by default `.kiln` in the repository.

    The result is an absolute path, or a URL for `pyarrow.fs.FileSystem.from_uri`. For
    `s3://bucket/prefix` the endpoint comes from the URL's query (`?endpoint_override=...`), else
    from AWS_ENDPOINT_URL; the region from the query (`region`), else from AWS_REGION. Credentials
    come from the environment of each node (AWS_ACCESS_KEY_ID, a profile, the instance's role).
    They are refused in the URL, which ends up in logs.

    Raises:
        UserError: the value is neither an absolute path nor a URL, or holds a password.
    """
    named = os.environ.get("KILN_STORAGE", "").strip()
    if not named:
        return str(STATE)
    if "://" not in named:
        if not Path(named).is_absolute():
            raise UserError(
                f"KILN_STORAGE={named}: an absolute path or a URL such as s3://bucket/prefix is "
                "needed"
            )
        return str(Path(named))
    parts = urlsplit(named)
    if "@" in parts.netloc:
        host = parts.netloc.rpartition("@")[2]
        raise UserError(
            f"KILN_STORAGE has credentials in it ({parts.scheme}://...@{host}); leave them to the "
            "environment of the nodes (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )
    return _complete_s3_url(parts) if parts.scheme == "s3" else named.rstrip("/")


def _complete_s3_url(parts: SplitResult) -> str:
    """Add endpoint and region of the environment to the URL's query, unless it has them."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint and not region:
        # Without a region Arrow asks Amazon for the bucket's, which fails for other services.
        region = "us-east-1"
    defaults = {"endpoint_override": endpoint, "region": region}
    query = {key: value for key, value in defaults.items() if value} | dict(parse_qsl(parts.query))
    return parts._replace(
        path=parts.path.rstrip("/"), query=urlencode(query, quote_via=quote)
    ).geturl()


def resolve_checked() -> str:
    """Return the storage for the connected session, on a cluster after a check from every node.

    Raises:
        UserError: the storage cannot be used from every node, or is not shared by all nodes.
    """
    if not is_cluster():
        return resolve()
    alive = len(living_nodes())
    if alive > 1 and not os.environ.get("KILN_STORAGE"):
        raise UserError(
            f"the cluster has {alive} nodes and KILN_STORAGE is not set: name a folder that all of "
            "them share, or a URL such as s3://bucket/prefix, in every node's environment"
        )
    storage = resolve()
    check_storage(storage)
    return storage


def check_storage(storage: str) -> None:
    """Write a file from every node of the cluster, and read all of them from every node.

    This also detects a folder that exists on every node but is not shared.

    Raises:
        UserError: a node cannot write or read. The message has all such nodes with the reasons.
    """
    content = secrets.token_hex(8)
    probe = join_uri(storage, f".probe-{content}")
    written = run_on_every_node(_write_probe, probe, content)
    try:
        _raise_errors(storage, {node: result.error for node, result in written.items()})
        names = [result.name for result in written.values()]
        _raise_errors(storage, run_on_every_node(_read_probes, probe, names, content))
    finally:
        run_on_one_node(_remove_probes, probe)


def _raise_errors(storage: str, errors: dict[str, str]) -> None:
    lines = [f"  {node}: {error}" for node, error in errors.items() if error]
    if lines:
        raise UserError(
            f"checkpoint storage {storage} (KILN_STORAGE) does not work from {len(lines)} of "
            f"{len(errors)} nodes:\n"
            + "\n".join(lines)
            + "\nname a folder that all nodes share, or a URL such as s3://bucket/prefix with its "
            "credentials in each node's environment"
        )


@dataclass(frozen=True)
class _WriteResult:
    """The name of a node's probe file, and an error message, empty on success."""

    name: str
    error: str = ""


def _write_probe(probe: str, content: str) -> _WriteResult:
    name = secrets.token_hex(8)
    try:
        open_store(probe).put(name, content.encode())
    except (OSError, pa.ArrowException, UserError) as error:
        return _WriteResult(name, f"cannot write: {error}")
    return _WriteResult(name)


def _read_probes(probe: str, names: list[str], content: str) -> str:
    """Read the probe files of all nodes; return an error message, empty on success."""
    try:
        store = open_store(probe)
        seen = set(store.names()) & set(names)
        if any(store.get(name) != content.encode() for name in seen):
            return "reads other bytes than were written"
    except (OSError, pa.ArrowException, UserError) as error:
        return f"cannot read: {error}"
    missing = len(names) - len(seen)
    if missing:
        return f"does not see what {missing} of {len(names)} nodes wrote: it is not shared"
    return ""


def _remove_probes(probe: str) -> None:
    # Storage that could not be written has nothing to remove.
    with suppress(OSError, pa.ArrowException, UserError):
        open_store(probe).clear()
