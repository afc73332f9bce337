"""The whole application, as it is started from the command line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from eventstore.personal import MASTER_KEY_VARIABLE, MasterKeys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

pytest.importorskip("uvicorn")

ROOT = Path(__file__).parents[3]


@contextmanager
def running(database: URL) -> Iterator[str]:
    """Start it, and give its address."""
    url = database.render_as_string(hide_password=False)
    with subprocess.Popen(
        [sys.executable, "-m", "examples.wordbook", "--port", "0", "--database-url", url],
        cwd=ROOT,
        env=os.environ | {MASTER_KEY_VARIABLE: MasterKeys.generate()},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if address := re.search(r"running on (http://127\.0\.0\.1:\d+)", line):
                    yield address[1]
                    break
            else:
                raise AssertionError("it has ended before it could be asked anything")
        finally:
            process.send_signal(signal.SIGINT)
            output = process.stderr.read()
    assert process.returncode == 0, output


def blocks(language: str) -> str:
    """What the README has in blocks of this language."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    return "".join(found)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_readme_is_right_and_an_answer_is_seen_by_who_gave_it(
    committed_wordbook: URL,
) -> None:
    with running(committed_wordbook) as address:
        commands = blocks("sh").replace("http://127.0.0.1:8000", address)
        said = subprocess.run(["bash", "-c", commands], capture_output=True, text=True, check=True)
        assert said.stdout == blocks("text").rstrip("\n")

        with httpx.Client(base_url=f"{address}/learners/ann") as ann:
            answer = {"entry_id": "ja-雨", "grade": 5, "on": "2025-04-01"}
            position = ann.post("reviews", json=answer).raise_for_status().json()["position"]
            today = ann.get("due", params={"on": "2025-04-01", "after": position})
            tomorrow = ann.get("due", params={"on": "2025-04-02", "after": position})
    assert today.json() == []
    assert [word["due_on"] for word in tomorrow.json()] == ["2025-04-02"]
