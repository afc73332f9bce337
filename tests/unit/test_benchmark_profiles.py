"""The benchmark's profiles: what py-spy's stacks say, and of which revisions they are."""

from __future__ import annotations

import argparse
import subprocess
from typing import TYPE_CHECKING

import pytest

from benchmarks import profiles
from benchmarks.controller import Unavailable
from benchmarks.profiles import Profile, Revision

if TYPE_CHECKING:
    from pathlib import Path

BELOW = "main (profiled.py:90);profiled (profiled.py:80);repeat (profiled.py:70)"
STACKS = [
    "<module> (profiled.py:1);_find_and_load (<frozen importlib._bootstrap>:1165) 900",
    "main (profiled.py:90);repeat (profiled.py:70);read (eventstore/store.py:7) 500",
    f"{BELOW};read (eventstore/store.py:7) 30",
    f"{BELOW};read (eventstore/store.py:7);fetch (psycopg/cursor.py:2) 50",
    f"{BELOW};read (eventstore/store.py:7);read (eventstore/store.py:7);wait (socket.py:5) 10",
    f"{BELOW};new_stream_id (contents.py:50) 10",
]


def a_profile() -> Profile:
    profile = Profile()
    profile.add(STACKS)
    profile.cpu_microseconds += [30, 10, 20]
    return profile


def test_imports_and_warming_up_are_no_part_of_a_profile() -> None:
    assert a_profile().samples == 100


def test_a_function_has_its_own_time_and_that_of_what_it_calls() -> None:
    profile = a_profile()
    assert profile.own["read (eventstore/store.py:7)"] == 30
    # Once for each sample, however often it is on the stack.
    assert profile.total["read (eventstore/store.py:7)"] == 90


def test_time_is_shared_out_among_packages() -> None:
    shares = {"psycopg": 0.5, "eventstore": 0.3, "Python": 0.1, "benchmark": 0.1}
    assert a_profile().packages() == pytest.approx(shares)


def test_a_page_tells_the_functions_that_took_most(tmp_path: Path) -> None:
    revision = Revision(label="after", name="HEAD", commit="0123", folder=tmp_path, url="")
    text = "\n".join(profiles.page(revision, {"read": a_profile()}, top=2))
    assert "| read | 20 | psycopg 50%, eventstore 30%" in text
    assert " 50.0%  50.0%  fetch (psycopg/cursor.py:2)" in text
    assert " 30.0%  90.0%  read (eventstore/store.py:7)" in text
    assert "wait (socket.py" not in text


def test_a_revision_has_a_label_that_can_be_a_files_name() -> None:
    assert profiles.parse_revision("before=HEAD~10") == ("before", "HEAD~10")
    for wrong in ("HEAD", "before=", "../x=HEAD"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not LABEL=REVISION"):
            profiles.parse_revision(wrong)


def test_the_code_of_a_revision_is_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, folder = tmp_path / "repository", tmp_path / "unpacked"
    for name in ("eventstore/store.py", "alembic/env.py", "benchmarks/raw.py"):
        file = repository / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("committed")
    for command in ("init -q", "add .", "-c user.name=n -c user.email=e commit -qm first"):
        subprocess.run(["git", *command.split()], cwd=repository, check=True)
    (repository / "eventstore" / "store.py").write_text("changed")
    monkeypatch.setattr(profiles, "_ROOT", repository)

    profiles.unpack("HEAD", folder)

    assert (folder / "eventstore" / "store.py").read_text() == "committed"
    assert sorted(path.name for path in folder.iterdir()) == ["alembic", "eventstore"]
    with pytest.raises(Unavailable, match="git rev-parse"):
        profiles.unpack("no-such-revision", folder)
