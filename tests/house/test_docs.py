"""Documentation that cannot be out of date: links lead somewhere, commands are taken, code runs."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from page_runner import BLOCK, GUIDE, ROOT

import yoloprune
from yoloprune.settings.command_line import parse
from yoloprune.settings.commands import COMMANDS

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """What links to headings of a page end with, as GitHub and MkDocs make them."""
    heads = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere in this repository; those to other places are not looked at."""
    found = []
    for link in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            found.append(link)
    return found


def test_the_finder_of_broken_links(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(
        "# One, two: `three`\n[a](a.md#one-two-three) [b](b.md) [c](#four) [d](https://x.y)\n```text\n[e](e)\n```\n"
    )
    assert broken(page) == ["b.md", "#four"]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken(page)


def test_every_page_stands_in_the_site_and_is_there() -> None:
    told = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def pages(entry: object) -> list[str]:
        below = entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ()
        return [entry] if isinstance(entry, str) else [p for e in below for p in pages(e)]

    listed = pages(told["nav"])
    assert sorted(listed) == sorted(str(p.relative_to(ROOT / "docs")) for p in PAGES if p.is_relative_to(ROOT / "docs"))


# Commands -------------------------------------------------------------------------------------------------------------
def commands(page: Path) -> list[str]:
    """Lines of shell blocks that call yoloprune, without comments and without what the shell adds."""
    lines = [
        line.partition(" #")[0].strip()
        for kind, block in BLOCK.findall(page.read_text(encoding="utf-8"))
        if kind == "bash"
        for line in re.sub(r"\\\n\s*", "", block).splitlines()
    ]
    return [line for line in lines if re.match(r"(\w+=\S+ )?yoloprune ", line)]


@pytest.mark.parametrize("page", GUIDE, ids=named)
def test_commands_of_the_guide_are_taken(page: Path) -> None:
    for line in commands(page):
        words = shlex.split(line[line.index("yoloprune ") :])[1:]
        if words[0] in COMMANDS and COMMANDS[words[0]].options:
            parse(words)
        else:
            assert words[0] in COMMANDS, line


def test_the_guide_has_commands() -> None:
    assert sum(len(commands(page)) for page in GUIDE) > 25


@pytest.mark.parametrize("page", GUIDE, ids=named)
def test_python_of_the_guide_uses_names_that_are_there(page: Path) -> None:
    for kind, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "yoloprune":
                assert hasattr(yoloprune, node.attr), node.attr
            if isinstance(node, ast.ImportFrom) and node.module == "yoloprune":
                assert all(hasattr(yoloprune, a.name) for a in node.names)


def test_the_example_of_the_trace_prints_what_the_page_says() -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8"))
    code, printed = (next(block for k, block in blocks if k == kind) for kind in ("python", "text"))
    with contextlib.redirect_stdout(said := io.StringIO()):
        exec(compile(code, "how-it-works.md", "exec"), {"__name__": "page"})
    assert said.getvalue() == printed


# Reference ------------------------------------------------------------------------------------------------------------
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "scripts" / "docs_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["commands.md", "report.md", "python.md"])
def test_the_reference_is_what_the_tables_tell(name: str) -> None:
    page = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert page == script().PAGES[name](), "run scripts/docs_reference.py"


def test_every_command_stands_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(COMMANDS)
