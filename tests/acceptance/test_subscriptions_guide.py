"""The code of the guide to subscriptions runs, and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from eventstore import ANY, SqlAlchemyEventStore
from tests.fixtures.events import new_event

if TYPE_CHECKING:
    import pytest
    from sqlalchemy import Engine

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "subscriptions.md"


def blocks(language: str) -> str:
    page = GUIDE.read_text(encoding="utf-8")
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))


def test_the_guide_does_what_it_says(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE balances (account text PRIMARY KEY, amount int)"))
    with Session(engine) as session, session.begin():
        store = SqlAlchemyEventStore(session)
        for account in ("account-1", "account-2", "account-1"):
            store.append_to_stream(account, ANY, [new_event({"amount": 5})])
    names: dict[str, Any] = {"engine": engine, "serve": lambda: None}
    exec(compile(blocks("python"), "subscriptions.md", "exec"), names)

    assert capsys.readouterr().out == blocks("text")
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT account, amount FROM balances ORDER BY 1"))
        assert [tuple(row) for row in rows] == [("account-1", 10), ("account-2", 5)]
