"""Several processes migrate at once: one does the work, nobody fails, nobody waits for ever."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, create_engine, text

from eventstore import migrate
from eventstore.models import HEAD_REVISION

ROOT = Path(__file__).parents[2]

# Commits in the middle, so that only a lock of the session can hold.
SECOND_REVISION = """
from alembic import op

revision = "es9999"
down_revision = "{head}"


def upgrade():
    with op.get_context().autocommit_block():
        op.drop_index("ix_events_second", postgresql_concurrently=True, if_exists=True)
        op.create_index("ix_events_second", "events", ["event_type"], postgresql_concurrently=True)
        op.execute("SELECT pg_sleep(1)")
    op.execute("CREATE TABLE second (id int)")


def downgrade():
    op.drop_table("second")
    op.drop_index("ix_events_second")
"""


def upgrade_five_times_at_once(url: URL, folder: Path) -> list[tuple[int, str]]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "alembic", "upgrade", "head"],
            cwd=folder,
            env=os.environ
            | {
                "EVENTSTORE_DATABASE_URL": url.render_as_string(hide_password=False),
                "PYTHONPATH": str(ROOT),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(5)
    ]
    outcomes = [(process.communicate()[1], process.returncode) for process in processes]
    return [(code, stderr) for stderr, code in outcomes]


def assert_one_did_the_work(outcomes: list[tuple[int, str]]) -> None:
    assert [code for code, _ in outcomes] == [0] * 5, outcomes
    assert sum("Running upgrade" in stderr for _, stderr in outcomes) == 1


def test_five_processes_on_an_empty_database(database_url: URL, engine: Engine) -> None:
    assert_one_did_the_work(upgrade_five_times_at_once(database_url, ROOT))
    migrate.check(engine)


def test_five_processes_one_revision_behind(
    database_url: URL, engine: Engine, tmp_path: Path
) -> None:
    migrate.upgrade(engine)
    shutil.copytree(ROOT / "alembic", tmp_path / "alembic")
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    second = SECOND_REVISION.format(head=HEAD_REVISION)
    (tmp_path / "alembic" / "versions" / "9999_second.py").write_text(second)
    assert_one_did_the_work(upgrade_five_times_at_once(database_url, tmp_path))
    assert migrate.current(engine) == "es9999"
    with engine.connect() as connection:
        assert connection.scalar(
            text("SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_events_second'::regclass")
        )


def test_who_waits_too_long_is_told_for_whom(database_url: URL, engine: Engine) -> None:
    named = database_url.update_query_dict({"application_name": "first pod"})
    first = create_engine(named)
    with first.connect() as holder:
        migrate.upgrade(holder, schema="es")
        pid = holder.scalar(text("SELECT pg_backend_pid()"))
        for bind in (engine, engine.connect()):
            with pytest.raises(TimeoutError) as error:
                migrate.upgrade(bind, schema="es", lock_timeout_seconds=0.3)
            assert f"in schema 'es' is running: pid {pid}" in str(error.value)
            assert "application_name 'first pod', state 'idle in transaction'" in str(error.value)
            assert "waited 0.3 s" in str(error.value)
        # Another store is not concerned, and looking needs no lock.
        migrate.upgrade(engine, schema="other", lock_timeout_seconds=0)
        assert migrate.current(engine, schema="es") is None
        holder.rollback()
        migrate.upgrade(engine, schema="es", lock_timeout_seconds=0)
    first.dispose()
    bind.close()


def test_the_lock_is_waited_for(engine: Engine) -> None:
    with engine.connect() as holder:
        migrate.upgrade(holder)
        waiting = threading.Thread(target=migrate.upgrade, args=[engine])
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        holder.commit()
    waiting.join(30)
    assert not waiting.is_alive()
    migrate.check(engine)


def test_alembic_is_held_by_another_thread(engine: Engine) -> None:
    with (
        migrate._in_this_process,
        pytest.raises(TimeoutError, match=r"running in this process; waited 0\.2 s"),
    ):
        migrate.upgrade(engine, lock_timeout_seconds=0.2)
    migrate.upgrade(engine)
