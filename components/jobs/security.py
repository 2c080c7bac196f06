"""Who may talk to which cluster, and how: an encrypted or local connection, a token that nobody else can read."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import requests

from components.errors import UserError
from components.ray_session.addresses import is_loopback

_ANSWER_S = 15


def check_address(address: str, trust_network: bool) -> str:
    """The dashboard's address without a trailing slash.

    Raises:
        UserError: it is no http(s) address, holds a password, or is plain http to another machine (`trust_network` lets
            that pass: the token and the code then cross the network readable).
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--address {address!r}: the dashboard's address is needed, such as https://head:8265")
    if parts.username or parts.password:
        raise UserError("--address has a password in it, which every `ps` would show; tokens come from RAY_AUTH_TOKEN_PATH")
    if parts.scheme == "http" and not is_loopback(parts.hostname) and not trust_network:
        raise UserError(
            f"--address {address}: plain http would show the token to everyone on the way; use https, or tunnel "
            f"(ssh -L 8265:localhost:{parts.port or 8265} HEAD, or kubectl port-forward) and give http://localhost:8265, "
            "or --trust-network if the whole way is a network that you trust"
        )
    return address.rstrip("/")


def certificates() -> str | bool:
    """What TLS is verified with: the bundle or folder that REQUESTS_CA_BUNDLE or SSL_CERT_FILE names, else the usual ones."""
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True


def token() -> str | None:
    """The cluster's token, from where Ray looks for it: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.

    Raises:
        UserError: the file is missing or empty, or others than its owner may read it.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named).expanduser() if named else Path.home() / ".ray" / "auth_token"
    if not path.is_file():
        if named:
            raise UserError(f"RAY_AUTH_TOKEN_PATH={named}: no such file; put the cluster's token there, mode 0600")
        return None
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise UserError(f"{path} can be read by others (mode {mode:04o}); run: chmod 600 {path}")
    text = path.read_text(encoding="utf-8").strip()
    if not text:
        raise UserError(f"{path} is empty; put the cluster's token there")
    return text


def check_authentication(address: str, insecure: bool) -> None:
    """Asks the cluster whether it wants a token.

    Raises:
        UserError: it does not answer, its certificate cannot be verified, or its authentication is off (`insecure` lets
            that pass: then whoever reaches the address can run anything there).
    """
    try:
        answer = requests.get(f"{address}/api/authentication_mode", verify=certificates(), timeout=_ANSWER_S)
    except requests.exceptions.SSLError as error:
        raise UserError(
            f"{address}: its certificate cannot be verified ({error.args[0]}); name your authority's certificate in "
            "REQUESTS_CA_BUNDLE"
        ) from None
    except requests.RequestException as error:
        raise UserError(f"{address} does not answer ({type(error).__name__}); is the head up, is the tunnel open?") from None
    try:
        mode = answer.json()["authentication_mode"] if answer.ok else f"unknown (HTTP {answer.status_code})"
    except (ValueError, KeyError, TypeError):
        mode = "unknown (not Ray's answer)"
    if mode != "token" and not insecure:
        raise UserError(
            f"{address}: token authentication is {mode}, so that whoever reaches it can run anything there; start the "
            "cluster with RAY_AUTH_MODE=token on every node, or say --insecure"
        )
