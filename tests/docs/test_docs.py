"""Every code block of the README and of docs/ is run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.core import spec

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
pytestmark = pytest.mark.timeout(1800)  # far less on two free cores
BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)```", re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_blocks_run(page, folder):
    names: dict = {}
    files = False
    for block in BLOCK.finditer(page.read_text()):
        text, language = block["text"], block["language"]
        if block["file"]:
            files = True
            (folder / block["file"]).write_text(text)
        if language == "toml":
            spec.loads(text, name=page.name, folder=folder)
        elif language == "python":
            exec(compile(text, page.name, "exec"), names)
        elif language == "sh" and files:
            run(text)


def run(text: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-ec", text], env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def test_links_of_the_pages_lead_somewhere():
    for page in [*PAGES, *sorted((ROOT / "docs" / "decisions").glob("*.md")), ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
