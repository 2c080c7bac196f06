"""Values of `init`: the source of starting weights, and a pin of their content."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, Self
from urllib.parse import urlsplit

PRETRAINED = "pretrained"
_REGISTERED = re.compile(
    r"models:/(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]*)(?:@[a-z][a-z0-9_-]*|/[0-9]{1,18})"
)
_PIN = re.compile(
    r"#(?:version=(?P<version>[0-9]{1,18})(?:$|&(?=sha256=)))?(?:sha256=(?P<sha256>[0-9a-f]{64}))?"
)


@dataclass(frozen=True)
class InitSource:
    """A parsed value of `init`, such as `models:/photos@champion#version=3&sha256=...`.

    Attributes:
        location: `pretrained`, a URL, `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a path.
        version: number of the version that an alias named; None before it was looked up.
        sha256: digest of the file of weights; None accepts every content.
    """

    location: str
    version: int | None = None
    sha256: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the source that a text names.

        Raises:
            ValueError: The text is malformed. The message states what is allowed.
        """
        location, pin, version, sha256 = text, "", None, None
        if (start := max(text.rfind("#sha256="), text.rfind("#version="))) >= 0:
            location, pin = text[:start], text[start:]
            parts = _PIN.fullmatch(pin)
            if parts is None:
                raise ValueError(f"found {pin!r}; a pin is #sha256= and 64 digits 0-9 a-f")
            version = int(parts["version"]) if parts["version"] else None
            sha256 = parts["sha256"]
        source = cls(location, version, sha256)
        source._check()
        return source

    def _check(self) -> None:
        if not self.location:
            raise ValueError("there is no file before the pin")
        if self.kind == "pretrained" and self.sha256:
            raise ValueError("pretrained takes no sha256: its library checks the files")
        if self.kind == "registry" and not _REGISTERED.fullmatch(self.location):
            raise ValueError(
                f"found {self.location!r}; models:/NAME@ALIAS or models:/NAME/VERSION is needed"
            )
        if self.version is not None and not (self.kind == "registry" and "@" in self.location):
            raise ValueError("only an alias (models:/NAME@ALIAS) has a pinned version")
        if self.kind == "url":
            self._check_url()

    def _check_url(self) -> None:
        parts = urlsplit(self.location)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"found {self.location!r}; a URL has to be https:// or http://")
        if "@" in parts.netloc:
            raise ValueError("a URL cannot contain a password: every record would show it")

    @property
    def kind(self) -> Literal["pretrained", "registry", "url", "file"]:
        if self.location == PRETRAINED:
            return "pretrained"
        if self.location.startswith("models:"):
            return "registry"
        return "url" if re.match(r"[a-z][a-z0-9+.-]*://", self.location) else "file"

    @property
    def reference(self) -> str:
        """`NAME@ALIAS` or `NAME/VERSION` of a registered model; the version if it is known."""
        reference = self.location.removeprefix("models:/")
        if self.version is None:
            return reference
        return f"{reference.partition('@')[0]}/{self.version}"

    def without_digest(self) -> Self:
        """Return the source with the version of an alias, but without a digest, for records."""
        return replace(self, sha256=None)

    def __str__(self) -> str:
        pins = {"version": self.version, "sha256": self.sha256}
        pin = "&".join(f"{key}={value}" for key, value in pins.items() if value is not None)
        return f"{self.location}#{pin}" if pin else self.location
