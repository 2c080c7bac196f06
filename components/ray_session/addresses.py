"""Addresses of the site: the cluster that `RAY_ADDRESS` names, and those that its nodes get."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from urllib.parse import urlsplit

from components.errors import UserError

_TIMEOUT_S = 5.0
# A client of HTTP/2 begins with these bytes and an empty SETTINGS frame. The server answers
# with a SETTINGS frame (RFC 9113, section 3.4), whose type is its fourth byte.
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4
_KNOWN = "HOST:6379 on a node of the cluster, ray://HOST:10001 on another machine, auto or local"

FORWARDED = (
    "MLFLOW_TRACKING_URI",
    "KILN_STORAGE",
    "KILN_PLACEMENT",
    "KILN_ACCELERATOR",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
)
"""Environment variables that a node gets when its own environment lacks them. Never secrets."""


def forwarded_addresses() -> dict[str, str]:
    """Return the variables of `FORWARDED` that are set here and mean the same on another machine.

    Values with a password in them, or that name a loopback address, are left out.
    """
    values = {name: os.environ[name] for name in FORWARDED if os.environ.get(name)}
    return {
        name: value
        for name, value in values.items()
        if not may_hold_password(value) and not is_loopback(urlsplit(value).hostname or "")
    }


def may_hold_password(address: str) -> bool:
    """Return whether an `@` follows the scheme of an address, as after a user name or a password.

    `urlsplit` does not find a password that contains `#`, `/` or `?`.
    """
    return re.search("://.*@", address) is not None


def is_loopback(host: str) -> bool:
    """Return whether a host name or IP address means this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def get_ray_address() -> str | None:
    """Return the value of `RAY_ADDRESS`, or None for a local Ray."""
    address = os.environ.get("RAY_ADDRESS")
    return None if address in ("", "local") else address


def check_ray_address() -> None:
    """Check that a Ray cluster listens where `RAY_ADDRESS` points, within seconds.

    Ray itself would try for more than a minute.

    Raises:
        UserError: the address is malformed, or no Ray answers there.
    """
    address = get_ray_address()
    if address is None or address == "auto":
        return
    host, port = _split_ray_address(address)
    reason = _try_grpc(host, port)
    if reason:
        raise UserError(
            f"Ray at RAY_ADDRESS={address} cannot be used: {host}:{port} {reason}; check the "
            "address, start the cluster, or unset RAY_ADDRESS to use this machine"
        )


def _split_ray_address(address: str) -> tuple[str, int]:
    """Return host and port of an address, `HOST:PORT` or `ray://HOST:PORT`."""
    scheme, separator, rest = address.rpartition("://")
    if scheme in ("http", "https"):
        problem = f"this is a dashboard, which `pipelines.submit --address {address}` uses"
    elif separator and scheme != "ray":
        problem = f"the scheme {scheme} is not known"
    else:
        try:
            parts = urlsplit(f"//{rest}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if host and port and re.fullmatch(r"\S+:\d+", rest) and not set(rest) & set("/@?#"):
            return host, port
        problem = "host and port are needed"
    raise UserError(f"RAY_ADDRESS={address}: {problem}; known: {_KNOWN}")


def _try_grpc(host: str, port: int) -> str | None:
    """Return why no gRPC server answers at a port, or None if one does."""
    try:
        with socket.create_connection((host, port), _TIMEOUT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("0", "false", ""):
                return None
            connection.sendall(_HTTP2_GREETING)
            head = connection.recv(4, socket.MSG_WAITALL)
    except socket.gaierror as error:
        return f"has a name that does not resolve ({error.strerror})"
    except TimeoutError:
        return f"gives no answer within {_TIMEOUT_S:g} s"
    except OSError as error:
        return f"does not answer ({error.strerror})"
    return None if head[3:] == bytes([_SETTINGS]) else "answers, but it is not Ray"
