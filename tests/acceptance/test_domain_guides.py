"""The code of the guides to the domain side runs, and prints what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.test_readme import ROOT, blocks, needs_embedded, run

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL

GUIDE = "docs/how-to/aggregates-and-deciders.md"
TESTS = "docs/how-to/test-your-domain.md"
_OPTIONS = ("-p", "no:cacheprovider", "-o", "asyncio_default_fixture_loop_scope=function")


@needs_embedded
def test_the_guide_to_aggregates_prints_what_it_says(tmp_path: Path) -> None:
    output = run("\n".join(blocks(GUIDE, "python")), tmp_path)

    assert output == "".join(blocks(GUIDE, "text"))


def test_the_tests_of_the_guide_pass(event_store_server: URL, tmp_path: Path) -> None:
    domain = "\n".join(blocks(GUIDE, "python")[:3])
    (tmp_path / "bank.py").write_text(domain, encoding="utf-8")
    tests = "\n".join(blocks(TESTS, "python"))
    (tmp_path / "test_bank.py").write_text(tests, encoding="utf-8")
    dsn = event_store_server.render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *_OPTIONS, tmp_path],
        cwd=tmp_path,
        env=os.environ | {"EVENTSTORE_TEST_DSN": dsn},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{len(re.findall('^def test_', tests, re.MULTILINE))} passed" in done.stdout


@pytest.mark.parametrize("page", [GUIDE, TESTS])
def test_links_of_the_guides_lead_to_files(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / page).parent.joinpath(link).is_file(), link
