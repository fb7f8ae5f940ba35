"""Whatever the documentation names is there: commands, options, code, links, anchors, files."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import doc_pages
import pytest
import typer
import yaml
from doc_pages import PAGES, ROOT, Block
from schema_reference import reference

from vlmed import pytest_plugin
from vlmed.cli import app
from vlmed.suite.load import load_suite

CLI = typer.main.get_command(app)
# Words of a shell line after which another program begins.
_ENDS = {"|", "||", "&&", ";", ">", "2>", "&"}
_SHELLS = {"", "sh", "bash", "console", "shell", "text"}
# Stands for modules of the reader's own.
_YOURS = {"my_package"}
BLOCKS = [block for page in PAGES for block in doc_pages.blocks(page)]
# Folders of this repository that a path in the text may begin with.
_FOLDERS = {path.name for home in (ROOT, ROOT / "benchmark" / "vlmed") for path in home.iterdir() if path.is_dir()}
# These are made by a run, or stand for the reader's own.
_MADE = {"runs", "submissions", "predictions", "results", "reports", "demo", "data", "leaderboard", "images"}


def words_of(line: str) -> list[str]:
    """The words of the first program of a shell line, without its comment."""
    words = shlex.split(re.sub(r"(^|\s)#.*", "", line))
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    end = next((place for place, word in enumerate(words) if word in _ENDS), len(words))
    return words[:end]


def commands(block: Block, program: str) -> Iterator[list[str]]:
    for line in doc_pages.shell_lines(block):
        if re.match(rf"(\w+=\S+ )*{re.escape(program)} ", line):
            yield words_of(line)[1:]


def leaf(words: list[str]) -> tuple[Any, list[str]]:
    """The command that is called, and what is left for it."""
    command, rest = CLI, [word for word in words if word not in {"-q", "--quiet", "--no-color"}]
    while rest and hasattr(command, "commands"):
        if rest[0].startswith("-"):
            break
        if rest[0] not in command.commands and "make" in command.commands:
            rest = ["make", *rest]
        assert rest[0] in command.commands, f"no command {rest[0]!r}"
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def check_names(words: list[str]) -> None:
    """The command exists, and so do all of its options."""
    command, rest = leaf(words)
    known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help", "-h"}
    unknown = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)} - known
    assert not unknown, f"vlmed {' '.join(words)}: no option {sorted(unknown)}"


SHELL = [block for block in BLOCKS if block.language in _SHELLS]


@pytest.mark.parametrize("block", [block for block in SHELL if list(commands(block, "vlmed"))], ids=str)
def test_commands_in_blocks_are_understood(block: Block) -> None:
    for words in commands(block, "vlmed"):
        check_names(words)
        command, rest = leaf(words)
        if not hasattr(command, "commands") and "--help" not in rest:
            # Parses types and required options; nothing runs.
            command.make_context(command.name, list(rest)).close()


@pytest.mark.parametrize("page", PAGES, ids=doc_pages.name)
def test_commands_in_the_text_are_understood(page: Path) -> None:
    for code in doc_pages.inline(page):
        if re.match(r"vlmed [a-z-]", code):
            check_names(re.sub(r"[…\[\]]|\.\.\.", "", code).split()[1:])


@pytest.mark.parametrize("page", PAGES, ids=doc_pages.name)
def test_makes_and_scripts_are_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for block in doc_pages.blocks(page):
        if block.language in _SHELLS:
            assert {words[0] for words in commands(block, "make")} <= targets
            for words in commands(block, "python"):
                assert words[0].startswith("-") or (ROOT / words[0]).is_file(), words
    for code in doc_pages.inline(page):
        if re.fullmatch(r"make [a-z]+", code):
            assert code.split()[1] in targets
        if found := re.match(r"python ([\w/]+\.py)", code):
            assert (ROOT / found[1]).is_file(), code


class Parser:
    """Takes options as pytest's parser and its groups do."""

    def __init__(self) -> None:
        self.options: set[str] = set()

    def getgroup(self, *_: object) -> Parser:
        return self

    def addoption(self, *names: str, **_: object) -> None:
        self.options |= set(names)

    def addini(self, *_: object, **__: object) -> None:
        pass


def test_options_of_pytest_are_there() -> None:
    parser: Any = Parser()
    pytest_plugin.pytest_addoption(parser)
    named = {option for page in PAGES for option in re.findall(r"--vlmed-[a-z-]+[a-z]", page.read_text("utf-8"))}
    assert named
    assert named <= parser.options


PYTHON = [block for block in BLOCKS if block.language in {"python", "py"}]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles_and_its_imports_resolve(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                _module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            module = _module(node.module)
            assert not module or all(hasattr(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vlmed":
            assert hasattr(importlib.import_module("vlmed"), node.attr), f"vlmed.{node.attr}"


def _module(named: str) -> Any:
    if named.split(".")[0] in _YOURS:
        return None
    if named.split(".")[0] == "vlmed":
        return importlib.import_module(named)
    assert importlib.util.find_spec(named), f"no module {named}"
    return None


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in {"yaml", "toml"}], ids=str)
def test_yaml_and_toml_parse(block: Block) -> None:
    assert (yaml.safe_load if block.language == "yaml" else tomllib.loads)(block.text)


@pytest.mark.parametrize("page", PAGES, ids=doc_pages.name)
def test_links_and_anchors_resolve(page: Path) -> None:
    for target in doc_pages.links(page):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{target}: there is no {there}"
        if anchor:
            assert anchor in doc_pages.anchors(there), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=doc_pages.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    homes = (ROOT, ROOT / "benchmark", ROOT / "benchmark" / "vlmed", page.parent)
    for code in doc_pages.inline(page):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)+\.(py|md|yaml|yml|json|jsonl|csv|txt|toml)", code):
            continue
        if code.split("/")[0] in _FOLDERS | {"vlmed"} and code.split("/")[0] not in _MADE:
            assert any((home / code).exists() for home in homes), code


def test_the_reference_of_schemas_is_current() -> None:
    hint = "run `python tests/docs/schema_reference.py > docs/schemas.md`"
    assert (ROOT / "docs/schemas.md").read_text("utf-8") == reference(), hint


def test_every_track_is_explained() -> None:
    text = (ROOT / "docs/tracks.md").read_text("utf-8")
    assert [name for name in {track.name for track in load_suite().tracks.values()} if f"`{name}`" not in text] == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8"))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    tasks = {page for page in pages if page.startswith("tasks/")} - {"tasks/README.md"}
    assert sorted(navigation) == sorted(pages - tasks)


def test_these_checks_can_fail(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no option"):
        check_names(["run", "--modell", "x"])
    with pytest.raises(AssertionError, match="no command"):
        check_names(["rum"])
    page = tmp_path / "page.md"
    page.write_text("# A title: one\n\n    vlmed run --x  # why\n\n```sh\n$ vlmed a \\\n  b\nout\n```\n[x](y.md#z)\n")
    fenced, indented = doc_pages.blocks(page)
    assert list(commands(fenced, "vlmed")) == [["a", "b"]]
    assert list(commands(indented, "vlmed")) == [["run", "--x"]]
    assert doc_pages.links(page) == ["y.md#z"]
    assert doc_pages.anchors(page) == {"a-title-one"}
