"""Where checkpoints and results live: a folder that every node shares, or a URL of an object store."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pyarrow as pa

from components.errors import UserError
from components.paths import ROOT
from components.storage import join_uri, open_store


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
    from components.ray_session.nodes import every_node

    mark = secrets.token_hex(8)
    probe = join_uri(storage, f".probe-{mark}")
    wrote = every_node(_write, probe, mark)
    try:
        _refuse(storage, {node: error for node, (_, error) in wrote.items()})
        names = [name for name, _ in wrote.values()]
        _refuse(storage, every_node(_read, probe, names, mark))
    finally:
        every_node(_remove, probe, first_only=True)


def _refuse(storage: str, errors: dict[str, str]) -> None:
    wrong = [f"  {node}: {error}" for node, error in errors.items() if error]
    if wrong:
        raise UserError(
            f"checkpoint storage {storage} (KILN_STORAGE) does not work from {len(wrong)} of {len(errors)} nodes:\n"
            + "\n".join(wrong)
            + "\nname a folder that all nodes share, or a URL such as s3://bucket/prefix with its credentials in each "
            "node's environment"
        )


def _write(probe: str, mark: str) -> tuple[str, str]:
    """The name of this node's file and what went wrong, if anything."""
    name = secrets.token_hex(8)
    try:
        open_store(probe).put(name, mark.encode())
    except (OSError, pa.ArrowException, UserError) as error:
        return name, f"cannot write: {error}"
    return name, ""


def _read(probe: str, names: list[str], mark: str) -> str:
    try:
        place = open_store(probe)
        seen = set(place.names()) & set(names)
        if any(place.get(name) != mark.encode() for name in seen):
            return "reads other bytes than were written"
    except (OSError, pa.ArrowException, UserError) as error:
        return f"cannot read: {error}"
    missing = len(names) - len(seen)
    return f"does not see what {missing} of {len(names)} nodes wrote: it is not shared" if missing else ""


def _remove(probe: str) -> None:
    with suppress(OSError, pa.ArrowException, UserError):  # what could not be written need not be removed
        open_store(probe).clear()
