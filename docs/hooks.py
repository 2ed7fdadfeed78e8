"""What the site has beside the pages here: files of the repository, the command line's help, the schema for editors.

A hook of MkDocs. Links stay as they are written, for whoever reads the files in the repository, and are set right here.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from bandmaster.cli import main
from bandmaster.config.schema import schema

ROOT = Path(__file__).parents[1]

PAGES = {
    "README.md": "index.md",
    **{name: name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/RESULTS.md")},
}
"""Pages that lie elsewhere in the repository, and where they are in the site."""

LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?![a-z]+:|#)([^)#\s]*)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, place in PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text()))
    for picture in sorted((ROOT / "benchmarks/results").glob("*.png")):
        files.append(File.generated(config, f"benchmarks/results/{picture.name}", abs_src_path=str(picture)))
    files.append(File.generated(config, "cli.md", content=command_line()))
    files.append(File.generated(config, "orchestration.schema.json", content=json.dumps(schema(), indent=1)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links by where things are in the site; one to a file that is not in it becomes the file's name."""
    place = page.file.src_uri
    written_in = next((source for source, there in PAGES.items() if there == place), f"docs/{place}")

    def corrected(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        there = posixpath.normpath(posixpath.join(posixpath.dirname(written_in), target))
        in_site = PAGES.get(there, there.removeprefix("docs/"))
        if files.get_file_from_path(in_site) is None:
            return f"{text} (`{there}`)" if not there.startswith("docs/") else link[0]
        return f"[{text}]({posixpath.relpath(in_site, posixpath.dirname(place) or '.')}{anchor})"

    return LINK.sub(corrected, markdown)


def command_line() -> str:
    """A page with what every command says under ``--help``."""
    top = click.Context(main, info_name="bandmaster", max_content_width=110)
    parts = ["# Command line", f"```text\n{main.get_help(top)}\n```"]
    for name, command in main.commands.items():
        parts += _described(command, click.Context(command, parent=top, info_name=name, max_content_width=110), 2)
    return "\n\n".join(parts)


def _described(command: click.Command, context: click.Context, level: int) -> list[str]:
    parts = [f"{'#' * level} {context.command_path}", f"```text\n{command.get_help(context)}\n```"]
    within: dict[str, Any] = command.commands if isinstance(command, click.Group) else {}
    for name, inner in within.items():
        parts += _described(inner, click.Context(inner, parent=context, info_name=name), level + 1)
    return parts
