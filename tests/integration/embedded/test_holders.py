"""Who shares a server, and what is left when they leave or are killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from eventstore.embedded import EmbeddedPostgres, EmbeddedPostgresError

from .running import Holder, eventually, pid_of, postmaster_pid, processes_of, query

Hold = Callable[[Path], Holder]


pytestmark = pytest.mark.embedded


def test_temporary_server_leaves_nothing() -> None:
    server = EmbeddedPostgres(settings={"fsync": "off"})
    with server:
        folder = server.data_dir
        assert query(server, "SELECT 1") == 1
        assert len(processes_of(folder)) == 2
    assert processes_of(folder) == []
    assert not folder.exists()
    with pytest.raises(EmbeddedPostgresError, match="not started"):
        server.conninfo()


def test_server_is_as_promised(fresh: Path) -> None:
    with EmbeddedPostgres(fresh) as server:
        assert query(server, "SELECT current_user") == "postgres"
        assert query(server, "SHOW server_encoding") == "UTF8"
        assert query(server, "SELECT 'a' > 'B' AND lower('Ä') = 'ä'") is True
        assert query(server, "SHOW fsync") == "on"
        assert query(server, "SHOW listen_addresses") == ""
        assert (fresh / "socket").stat().st_mode & 0o777 == 0o700
        assert (server.bin_dir / "pg_dump").exists()


def test_urls(data: Path) -> None:
    async def ask_asyncpg(url: sqlalchemy.URL) -> object:
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            answer = await connection.scalar(sqlalchemy.text("SELECT current_database()"))
        await engine.dispose()
        return answer

    with EmbeddedPostgres(data) as server:
        query(server, 'CREATE DATABASE "an other"')
        engine = sqlalchemy.create_engine(server.url("an other"))
        with engine.connect() as connection:
            assert connection.scalar(sqlalchemy.text("SELECT current_database()")) == "an other"
        engine.dispose()
        url = server.url("an other", drivername="postgresql+asyncpg")
        assert asyncio.run(ask_asyncpg(url)) == "an other"
        text = url.render_as_string(hide_password=False)
        assert asyncio.run(ask_asyncpg(sqlalchemy.make_url(text))) == "an other"
        assert "dbname='an other'" in server.conninfo("an other")


def test_second_holder_keeps_server_alive(data: Path, hold: Hold) -> None:
    first = hold(data)
    first.expect("held")
    postmaster = postmaster_pid(data)
    with EmbeddedPostgres(data) as second:
        first.tell_to_stop()
        first.expect("left")
        assert query(second, "SELECT 1") == 1
        assert postmaster_pid(data) == postmaster
    assert processes_of(data) == []


def test_concurrent_starts_on_fresh_folder(fresh: Path, hold: Hold) -> None:
    holders = [hold(fresh) for _ in range(4)]
    for holder in holders:
        holder.expect("held")
    assert len(processes_of(fresh)) == 2  # one server, one watchdog
    for holder in holders:
        holder.tell_to_stop()
    for holder in holders:
        holder.expect("left")
    # The last one returns only when all is down, also if several leave at the same time.
    assert processes_of(fresh) == []


def test_killed_last_holder_leaks_no_server(data: Path, hold: Hold) -> None:
    holder = hold(data)
    holder.expect("held")
    assert len(processes_of(data)) == 2
    holder.kill()
    eventually(lambda: not processes_of(data))


def test_server_is_stopped_when_all_are_asked_to_end(data: Path, hold: Hold) -> None:
    holder = hold(data)
    holder.expect("held")
    os.kill(pid_of(data, "_watchdog.py"), signal.SIGTERM)
    holder.kill()
    eventually(lambda: not processes_of(data))


def test_killed_holder_is_not_the_last(data: Path, hold: Hold) -> None:
    holder = hold(data)
    holder.expect("held")
    with EmbeddedPostgres(data) as server:
        holder.kill()
        assert query(server, "SELECT 1") == 1
    assert processes_of(data) == []


@pytest.mark.parametrize("round_", range(2))
def test_newcomer_while_killed_holders_server_stops(data: Path, hold: Hold, round_: int) -> None:
    holder = hold(data)
    holder.expect("held")
    holder.kill()
    with EmbeddedPostgres(data) as server:
        assert query(server, "SELECT 1") == 1
        assert len(processes_of(data)) == 2
    assert processes_of(data) == []


def test_server_left_by_killed_holder_and_watchdog_is_adopted(data: Path, hold: Hold) -> None:
    holder = hold(data)
    holder.expect("held")
    postmaster = postmaster_pid(data)
    os.kill(pid_of(data, "_watchdog.py"), signal.SIGKILL)
    eventually(lambda: len(processes_of(data)) == 1)
    holder.kill()
    with EmbeddedPostgres(data) as server:
        assert query(server, "SELECT 1") == 1
        assert postmaster_pid(data) == postmaster
    assert processes_of(data) == []


def test_killed_watchdog_is_replaced_by_the_last_holder(data: Path) -> None:
    with EmbeddedPostgres(data):
        os.kill(pid_of(data, "_watchdog.py"), signal.SIGKILL)
    assert processes_of(data) == []


def test_killed_holder_of_temporary_server_leaves_nothing() -> None:
    server = EmbeddedPostgres(settings={"fsync": "off"})
    child = os.fork()
    if child == 0:
        folder = server.start().data_dir
        Path(f"{folder}.told").write_text(str(folder))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (told,) = Path("/tmp").glob("eventstore-*.told")
    folder = Path(told.read_text())
    told.unlink()
    eventually(lambda: not folder.exists() and not processes_of(folder))


def test_forked_child_cannot_give_up_its_parents_hold(data: Path) -> None:
    with EmbeddedPostgres(data) as server:
        child = os.fork()
        if child == 0:
            server.stop()
            os._exit(0)
        os.waitpid(child, 0)
        assert query(server, "SELECT 1") == 1
    assert processes_of(data) == []
