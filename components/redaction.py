"""Secrets in text: passwords, tokens and signatures are replaced by `***`.

Errors of requests, SQLAlchemy, boto, Ray and git may quote an address with its password, a header
or a signed URL. Two kinds of secrets are found: those that this process knows, wherever they stand,
and unknown ones by the form around them. When in doubt, more text is replaced rather than less.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from urllib.parse import parse_qsl, quote, quote_plus, unquote

HIDDEN = "***"

# A shorter value is no secret worth the name, and replacing it would garble every message.
_MIN_CHARACTERS = 6
# A shorter value is replaced only as a whole word: it may be a part of an ordinary one.
_MIN_CHARACTERS_WITHIN_A_WORD = 12
_VARIABLE = re.compile(
    "PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_?KEY|ACCESS_KEY|PRIVATE_KEY", re.IGNORECASE
)
# Variables whose names have one of these words and that hold no secret: RAY_AUTH_TOKEN_PATH.
_PUBLIC_VARIABLE = re.compile("_(PATH|FILE|DIR|ID|URI|URL|NAME|MODE)$", re.IGNORECASE)
_ADDRESS_VARIABLE = re.compile("(ADDRESS|ENDPOINT|PROXY|STORAGE|URI|URL)$", re.IGNORECASE)
_SCHEME = re.compile("[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# User and password of an address. A password may hold any character, so it ends at the last @.
_LOGIN = re.compile(r"(?:[a-z][a-z0-9+.-]*://)?([^/:@]*):(?!//)(.+)@", re.IGNORECASE | re.DOTALL)
_TOKEN_AS_USER = re.compile(r"://(?=[^/:@]*\d)[^/:@]{20,}(?=(?::\*{3})?@)")
_PORT = re.compile(r"\d+(?:[/?#]|$)")

_NAME = (
    r"(?:password(?:_\w{1,40})?|passwd|passphrase|pwd|secret|token|signature|credentials?"
    r"|(?:access|account|api|private|secret|shared)[_-]?key(?:[_-]?id)?)"
)
_PATTERNS = [
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in [
        # Authorization: Basic Y2k6..., also as an entry of a dictionary or a list of pairs
        (
            r"""(authorization['"]?\s{0,3}[:=,]\s{0,3}(?:b?['"])?)"""
            r"""(?:(?:basic|bearer|digest|negotiate|token)\s+)?[^\s'",;]+""",
            rf"\1{HIDDEN}",
        ),
        (r"\b((?:basic|bearer)\s{1,3})(?=[\w+/=.~-]*[\d=])[\w+/=.~-]{8,}", rf"\1{HIDDEN}"),
        (r"""(cookie['"]?\s{0,3}:\s{0,3}['"]?)[^'"\r\n]+""", rf"\1{HIDDEN}"),
        # password='...', "password": "..."
        (
            rf"""({_NAME}\\?['"]?\s{{0,3}}[=:]\s{{0,3}}b?)(\\?['"])(?:(?!\2)[^\n])*""",
            rf"\1\2{HIDDEN}",
        ),
        # ?X-Amz-Signature=...&, password=... host=...
        (rf"""({_NAME}\s?=\s?)(?![=\s'"\\])[^\s&'"]+""", rf"\1{HIDDEN}"),
        (r"""([?&;](?:auth|code|key|pass|pw|sig)=)[^\s&'"]+""", rf"\1{HIDDEN}"),
        # x-amz-security-token: ..., aws_secret_access_key: ...
        (rf"""(\w[_-]{_NAME}:\s{{1,3}})[^\s'"]+""", rf"\1{HIDDEN}"),
        # Tokens of GitHub and GitLab, which stand in the addresses of remotes
        (r"\b(?:gh[opsu]_|github_pat_|glpat-)[\w-]{16,}", HIDDEN),
        (r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)(?s:.*?)(?=-----END|$)", rf"\1{HIDDEN}"),
    ]
]

_remembered: set[str] = set()


def remember_secret(value: str) -> None:
    """Let `redact` replace a secret that is not in the environment, such as the content of a file.

    A value of fewer than six characters is not replaced.
    """
    _remembered.add(value)


def redact(text: str) -> str:
    """Return `text` with every password, token and signature replaced by `***`.

    Replaced are the values of environment variables whose names say so (`PGPASSWORD`,
    `AWS_SECRET_ACCESS_KEY`), passwords in addresses that the environment names, what
    `remember_secret` was given, each also in its encoded forms; and by form: passwords in URLs,
    `Authorization` headers, and values of names such as `password=` or `X-Amz-Signature=`.
    Redacting again changes nothing.
    """
    known = frozenset(_known_secrets())
    if known:
        text = _compile(known).sub(HIDDEN, text)
    text = hide_passwords(text)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact_address(address: str) -> str:
    """Return `redact` of an address, which may lack its scheme or hold spaces in its password."""
    if "://" not in address:
        return redact(_hide_password(f"://{address}")).removeprefix("://")
    return redact(_hide_password(address))


def hide_passwords(text: str) -> str:
    """Return `text` with the password of every `scheme://USER:PASSWORD@HOST` replaced by `***`.

    The user name stays, unless it looks like a token: 20 characters or more, with a digit.
    """
    if "//" not in text or "@" not in text:
        return text
    return re.sub(r"\S+", lambda word: _hide_password(word[0]), text)


def _hide_password(word: str) -> str:
    # Up to the last @ of the word, because a password may hold characters that end a host name.
    end = word.rfind("@")
    user = re.search("//[^/:@]*:", word)
    if user and user.end() <= end:
        word = f"{word[: user.end()]}{HIDDEN}{word[end:]}"
    return _TOKEN_AS_USER.sub(f"://{HIDDEN}", word)


def _known_secrets() -> Iterator[str]:
    """Yield the secrets of this process, with repetitions."""
    for name, value in os.environ.items():
        yield from _secrets_of_variable(name, value)
    if password := os.environ.get("MLFLOW_TRACKING_PASSWORD"):
        yield _encode_login(os.environ.get("MLFLOW_TRACKING_USERNAME", ""), password)
    yield from _remembered


@cache
def _secrets_of_variable(name: str, value: str) -> tuple[str, ...]:
    if _VARIABLE.search(name) and not _PUBLIC_VARIABLE.search(name):
        return (value,)
    if _ADDRESS_VARIABLE.search(name) or _SCHEME.match(value):
        return _secrets_of_address(value)
    return ()


def _secrets_of_address(address: str) -> tuple[str, ...]:
    """Return the password of an address, its parts, and the secrets of its query.

    A library that splits the address in the wrong place quotes a part of the password.
    """
    query = address.partition("?")[2]
    secrets = [value for key, value in parse_qsl(query) if re.search(_NAME, key, re.IGNORECASE)]
    if login := _LOGIN.match(address):
        user, password = login.groups()
        parts = [] if _PORT.match(password) else re.split("[/?#@:]", password)
        secrets += [password, *parts, _encode_login(unquote(user), unquote(password))]
    return tuple(secrets)


def _encode_login(user: str, password: str) -> str:
    """Return a login as HTTP basic authentication sends it (RFC 7617)."""
    return base64.b64encode(f"{user}:{password}".encode("utf-8", "surrogateescape")).decode()


@cache
def _compile(secrets: frozenset[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of `secrets`, the longest first."""
    forms = {form for secret in secrets for form in _forms(secret)}
    alternatives = [_match_form(form) for form in sorted(forms, key=len, reverse=True)]
    return re.compile("|".join(alternatives) or "(?!)")


def _forms(secret: str) -> set[str]:
    """Return a secret as it is and as URLs, Python and JSON write it."""
    forms = set()
    for value in (secret, secret.strip(), unquote(secret)):
        encoded = value.encode("utf-8", "surrogateescape")
        forms |= {value, quote(encoded), quote(encoded, safe=""), quote_plus(encoded)}
        forms |= {repr(value)[1:-1], json.dumps(value)[1:-1]}
    return {form for form in forms if len(form.strip()) >= _MIN_CHARACTERS}


def _match_form(form: str) -> str:
    pattern = re.escape(form)
    if len(form) >= _MIN_CHARACTERS_WITHIN_A_WORD:
        return pattern
    start = r"\b" if re.match(r"\w", form) else ""
    end = r"\b" if re.search(r"\w$", form) else ""
    return start + pattern + end
