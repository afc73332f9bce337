"""The code of the guide to projections runs, and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

if TYPE_CHECKING:
    import pytest
    from sqlalchemy import Engine

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "projections.md"


def blocks(language: str) -> str:
    page = GUIDE.read_text(encoding="utf-8")
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))


def test_the_guide_does_what_it_says(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "guide", "engine": engine}
    # Not with this module's annotations as text: models are looked up by their module's names.
    exec(compile(blocks("python"), "projections.md", "exec", dont_inherit=True), names)

    assert capsys.readouterr().out == blocks("text")
    with Session(engine) as session:
        names["test_a_balance"](session)


def test_links_of_the_guide_lead_to_files() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", GUIDE.read_text(encoding="utf-8")):
        assert GUIDE.parent.joinpath(link).is_file(), link
