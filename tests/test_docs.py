"""The examples of the documentation run, in the order in which a reader meets them.

In each document, blocks of Python share one namespace, and blocks of sh run those of their lines that call
`tilevault`, all in one temporary folder that holds a small `collection/`. The word `no-run` after the
language leaves a block out (Python is still parsed); `exit=N` names the exit code that is meant. What they
call https://example.org is a plain web server over that folder.
"""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import collection
from web_server import serving

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
SITE = "https://example.org"
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the words after it, its text, and where it stands."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int
    """Line of the document on which ``text`` begins."""


def blocks(path: Path) -> Iterator[Block]:
    text = path.read_text()
    for found in FENCE.finditer(text):
        language, *words = found["info"].split() or [""]
        yield Block(language, tuple(words), found["body"], text.count("\n", 0, found.start("body")) + 1)


def commands(block: Block) -> list[str]:
    """The lines of a shell block that call the program; a backslash joins lines, ``$`` may stand before."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line.removeprefix("$").strip() for line in lines if re.match(r"(\$ )?tilevault ", line)]


@pytest.fixture(scope="session")
def small_collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collection.build(tmp_path_factory.mktemp("docs") / "collection", slices=4, side=700)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_examples_run(
    path: Path, small_collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not any(block.language in ("python", "sh") for block in blocks(path)):
        return
    shutil.copytree(small_collection, tmp_path / "collection")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    namespace: dict[str, Any] = {"__name__": "example"}
    try:
        with serving(tmp_path) as web:
            for found in blocks(path):
                block = replace(found, text=found.text.replace(SITE, web.url))
                if block.language == "python":
                    run_python(path, block, namespace)
                elif block.language == "sh" and "no-run" not in block.words:
                    run_shell(path, block)
    finally:
        end_programs(namespace)


def end_programs(namespace: dict[str, Any]) -> None:
    """Of an example that failed midway: what it left running would fail another test when it is collected."""
    for program in namespace.values():
        if isinstance(program, subprocess.Popen):
            program.kill()
            with program:
                pass  # leaving it closes its pipes and waits


def run_python(path: Path, block: Block, namespace: dict[str, Any]) -> None:
    """Run the block; its lines carry the numbers that they have in the document."""
    tree = ast.parse("\n" * (block.line - 1) + block.text, str(path))
    if "no-run" not in block.words:
        exec(compile(tree, str(path), "exec"), namespace)


def run_shell(path: Path, block: Block) -> None:
    expected = next((int(word.removeprefix("exit=")) for word in block.words if word.startswith("exit=")), 0)
    for command in commands(block):
        done = subprocess.run(
            shlex.split(command, comments=True), capture_output=True, text=True, check=False
        )
        assert done.returncode == expected, f"{path.name}:{block.line}: {command}\n{done.stdout}{done.stderr}"
