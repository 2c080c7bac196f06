"""MkDocs hook: fill in the generated references and publish pages from outside `docs/`.

Links between pages are written for the repository, so that they also work where the Markdown
files are read there. The hook rewrites those that leave `docs/`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import posixpath
import re
import sys
from collections.abc import Callable
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from components.params import reference
from components.paths import ROOT

# Files outside `docs/` and their addresses in the site.
PUBLISHED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
    "benchmarks/NOTES.md": "benchmarks/notes.md",
    "tests/integration/README.md": "explanation/faults.md",
} | {
    path.relative_to(ROOT).as_posix(): path.relative_to(ROOT).as_posix()
    for path in (ROOT / "benchmarks" / "results").glob("*.*")
    if "_smoke" not in path.name  # git ignores them
}


def command_reference() -> str:
    """Return the help text of every command, as Markdown."""
    names = sorted(path.stem for path in (ROOT / "pipelines").glob("[!_]*.py"))
    return "\n".join(f"## {name}\n\n```text\n{help_text(name)}```\n" for name in names)


def help_text(name: str) -> str:
    """Return the output of `python -m pipelines.NAME --help`."""
    command = importlib.import_module(f"pipelines.{name}")
    text = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [f"python -m pipelines.{name}"]),
        mock.patch.dict(os.environ, {"COLUMNS": "80"}),
        contextlib.redirect_stdout(text),
        contextlib.suppress(SystemExit),
    ):
        command.main(["--help"])
    return text.getvalue()


# HTML comments in pages and the functions that return the Markdown in their place.
GENERATED: dict[str, Callable[[], str]] = {
    "<!-- generated: parameters -->": reference.render,
    "<!-- generated: commands -->": command_reference,
}
_LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of `PUBLISHED` to the site."""
    for name, address in PUBLISHED.items():
        files.append(File.generated(config, address, content=(ROOT / name).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Return a page's Markdown with generated parts filled in and links that hold in the site."""
    for comment, generate in GENERATED.items():
        if comment in markdown:
            markdown = markdown.replace(comment, generate())
    return rewrite_links(markdown, page.file.src_uri)


def rewrite_links(markdown: str, address: str) -> str:
    """Return Markdown whose relative links hold in the site.

    Args:
        markdown: a page with links that hold in the repository.
        address: of the page in the site, such as `how-to/server.md`.
    """
    sources = {target: source for source, target in PUBLISHED.items()}
    folder = posixpath.dirname(sources.get(address, f"docs/{address}"))

    def rewrite(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link["path"]))
        if target in PUBLISHED:
            target = PUBLISHED[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            return link["path"]  # not in the site: MkDocs reports it
        return posixpath.relpath(target, posixpath.dirname(address) or ".")

    return _LINK.sub(rewrite, markdown)
