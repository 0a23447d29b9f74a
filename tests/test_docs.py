"""README.md and docs: links lead somewhere, files that are named exist, commands have options of today."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from workflows.cli import JOBS, read_options

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_links_and_named_files_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (ROOT / page).parent.joinpath(link).exists()] == []
    files = re.findall(r"`((?:fusion|detection|workflows|benchmarks|tests|docs)/[\w./-]+\.\w+)", text)
    missing = [file for file in files if not (ROOT / file).exists() and not (ROOT / "tests" / file).exists()]
    assert missing == []


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(job, its options without recipe fields) of every `duskfuse JOB ...` in code."""
    code = [span for block in text.split("```")[1::2] for span in block.splitlines()]
    code += re.findall(r"`([^`\n]+)`", "".join(text.split("```")[::2]))
    code += re.findall(r"^    (.+)$", text.replace("\\\n", " "), re.MULTILINE)
    found = []
    for line in code:
        for job, words in re.findall(r"(?:duskfuse|workflows[. ])\s*(\w+)([^|;&]*)", line):
            options = re.findall(r"(?<!\S)--([a-z][\w-]*)(?![\w.-])", words)
            found.append((job, options))
    return [(job, options) for job, options in found if job in JOBS]


@pytest.fixture(scope="module")
def known() -> dict[str, str]:
    """Job -> its help."""
    texts = {}
    for job in JOBS:
        with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
            read_options(job, [*(["tgecnet-restore"] if job in ("train", "tune") else []), "--help"])
        texts[job] = printed.getvalue()
    return texts


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_options_of_today(page, known):
    text = (ROOT / page).read_text(encoding="utf-8")
    unknown = [
        (job, option)
        for job, options in commands(text)
        for option in options
        if not re.search(rf"--{option}\b", known[job])
    ]
    assert unknown == []


def test_the_reading_of_commands_finds():
    text = "`duskfuse tune x --seeds 2`\n\n    duskfuse corpus --pairs p \\\n      --val-share 0.3 --out c\n"
    assert ("tune", ["seeds"]) in commands(text)
    assert ("corpus", ["pairs", "val-share", "out"]) in commands(text)
