"""The code of the how-to guides runs, and prints what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest
    from sqlalchemy import URL

    from eventstore import SqlAlchemyEventStore

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"


def blocks(page: str, language: str) -> str:
    text = (HOW_TO / page).read_text(encoding="utf-8")
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def test_change_an_event_type(
    event_store: SqlAlchemyEventStore, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"__name__": "guide", "session": event_store.session}
    exec(compile(blocks("evolve-events.md", "python"), "evolve-events.md", "exec"), names)

    assert capsys.readouterr().out == blocks("evolve-events.md", "text")


def test_erase_personal_data(
    event_store: SqlAlchemyEventStore,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVENTSTORE_MASTER_KEY", "")  # and taken back after the guide has set it
    names: dict[str, Any] = {"__name__": "guide", "session": event_store.session}
    code = compile(blocks("personal-data.md", "python"), "guide", "exec", dont_inherit=True)
    exec(code, names)

    assert capsys.readouterr().out == blocks("personal-data.md", "text")


def test_share_commits(committed_database: URL, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "guide", "url": committed_database}
    exec(compile(blocks("group-commit.md", "python"), "group-commit.md", "exec"), names)
    for engine in ("engine", "patient"):
        names[engine].dispose()

    assert capsys.readouterr().out == blocks("group-commit.md", "text")


def test_decide_across_streams(committed_database: URL, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "guide", "url": committed_database}
    page = "decide-across-streams.md"
    # Pasted into a file, it has no `from __future__ import annotations` of ours.
    exec(compile(blocks(page, "python"), page, "exec", dont_inherit=True), names)
    names["engine"].dispose()

    assert capsys.readouterr().out == blocks(page, "text")
