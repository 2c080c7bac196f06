"""Addresses of the site that Kiln sends to a cluster's nodes."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

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
        if "@" not in urlsplit(value).netloc and not is_loopback(urlsplit(value).hostname or "")
    }


def is_loopback(host: str) -> bool:
    """Return whether a host name or IP address means this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
