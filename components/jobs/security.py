"""The security of the connection to a cluster: encryption, certificates, token authentication."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import requests

from components.errors import UserError
from components.ray_session.addresses import is_loopback
from components.redaction import redact, redact_address, remember_secret

_REQUEST_TIMEOUT_S = 15


def check_address(address: str, trust_network: bool) -> str:
    """Check the dashboard's address and return it without a trailing slash.

    Args:
        address: URL of the dashboard.
        trust_network: accept plain http to another machine. The token and the code then cross
            the network unencrypted.

    Raises:
        UserError: the address is no http(s) URL, holds a password, or is plain http to another
            machine.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            f"--address {redact_address(address)!r}: the dashboard's address is needed, such as "
            "https://head:8265"
        )
    if parts.username or parts.password:
        raise UserError(
            "--address has a password in it, which every `ps` would show; tokens come from "
            "RAY_AUTH_TOKEN_PATH"
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname) and not trust_network:
        raise UserError(
            f"--address {address}: plain http would show the token to everyone on the way; use "
            f"https, or tunnel (ssh -L 8265:localhost:{parts.port or 8265} HEAD, or kubectl "
            "port-forward) and give http://localhost:8265, or --trust-network if the whole way is "
            "a network that you trust"
        )
    return address.rstrip("/")


def find_certificates() -> str | bool:
    """Return the file or folder of certificates that TLS is verified with, as for `requests`.

    It is the value of REQUESTS_CA_BUNDLE or SSL_CERT_FILE, else True: the default certificates.
    """
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True


def read_token() -> str | None:
    """Return the cluster's token, or None if there is none.

    The sources are Ray's: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.

    Raises:
        UserError: the file is missing or empty, or other users may read it.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
    if not path.is_file():
        if named:
            raise UserError(
                f"RAY_AUTH_TOKEN_PATH={named}: no such file; put the cluster's token there, mode "
                "0600"
            )
        return None
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise UserError(f"{path} can be read by others (mode {mode:04o}); run: chmod 600 {path}")
    token = path.read_text(encoding="utf-8").strip()
    if not token:
        raise UserError(f"{path} is empty; put the cluster's token there")
    remember_secret(token)
    return token


def check_authentication(address: str, insecure: bool) -> None:
    """Check that the cluster requires a token.

    Args:
        address: URL of the dashboard.
        insecure: accept a cluster without token authentication. Everyone who reaches the address
            can then run code there.

    Raises:
        UserError: the cluster does not answer, its certificate cannot be verified, or its token
            authentication is off.
    """
    try:
        response = requests.get(
            f"{address}/api/authentication_mode",
            verify=find_certificates(),
            timeout=_REQUEST_TIMEOUT_S,
        )
    except requests.exceptions.SSLError as error:
        raise UserError(
            f"{address}: its certificate cannot be verified ({redact(str(error.args[0]))}); name "
            "your authority's certificate in REQUESTS_CA_BUNDLE"
        ) from None
    except requests.RequestException as error:
        raise UserError(
            f"{address} does not answer ({type(error).__name__}); is the head up, is the tunnel "
            "open?"
        ) from None
    mode = _authentication_mode(response)
    if mode != "token" and not insecure:
        raise UserError(
            f"{address}: token authentication is {mode}, so that everyone who reaches it can "
            "run anything there; start the cluster with RAY_AUTH_MODE=token on every node, or say "
            "--insecure"
        )


def _authentication_mode(response: requests.Response) -> str:
    if not response.ok:
        return f"unknown (HTTP {response.status_code})"
    try:
        return str(response.json()["authentication_mode"])
    except (ValueError, KeyError, TypeError):
        return "unknown (not Ray's answer)"
