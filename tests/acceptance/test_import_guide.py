"""The code of the guide to imports runs, one piece after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import create_engine

from eventstore import migrate
from eventstore.testing.databases import temporary_database

if TYPE_CHECKING:
    import pytest
    from sqlalchemy import URL

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "import-events.md"


def blocks(language: str) -> list[str]:
    text = GUIDE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_guide_does_what_it_says(
    server_url: URL,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "payments.csv").write_text(blocks("text")[0], encoding="utf-8")
    first, copy, again, export = blocks("python")
    with temporary_database(server_url) as url:
        engine = create_engine(url)
        migrate.upgrade(engine)
        migrate.upgrade(engine, schema="archive")
        names = {"engine": engine, "old_engine": engine}
        for code in (first, again, copy, export):
            exec(code, names)  # the reader's paste
        engine.dispose()

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ImportProgress(imported=3, already_imported=0, new_streams=2")
    assert lines[1:] == ["3 events, 2 new streams", "0 new, 3 were there", "2450 cents"]
