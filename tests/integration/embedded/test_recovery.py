"""Crashes, leftovers and misleading traces."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import psycopg
import pytest

from eventstore.embedded import EmbeddedPostgres, EmbeddedPostgresError

from .running import Holder, eventually, postmaster_pid, processes_of, query

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


pytestmark = pytest.mark.embedded


def run_as_owner_of(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    """PostgreSQL takes only processes of its own user for a server."""
    if os.geteuid() != 0:
        return subprocess.Popen(command)
    owner = folder.stat()
    return subprocess.Popen(command, user=owner.st_uid, group=owner.st_gid, cwd="/")


@pytest.fixture
def crashed(data: Path) -> Path:
    """A folder whose server was killed, with all the traces that it left."""
    server = EmbeddedPostgres(data).start()
    os.kill(postmaster_pid(data), signal.SIGKILL)
    server.stop()
    assert (data / "pgdata" / "postmaster.pid").exists()
    return data


def test_holder_starts_crashed_server_again(data: Path) -> None:
    with EmbeddedPostgres(data) as server:
        # A busy backend outlives its postmaster: no new server may start before it has gone.
        busy = psycopg.connect(server.conninfo())
        busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 3000000)")
        os.kill(postmaster_pid(data), signal.SIGKILL)
        server.start()
        busy.close()
        assert query(server, "SELECT count(*) FROM kept") == 0
        assert len(processes_of(data)) == 2
    assert processes_of(data) == []


def test_other_holder_starts_crashed_server_again(
    data: Path, hold: Callable[[Path], Holder]
) -> None:
    holder = hold(data)
    holder.expect("held")
    with EmbeddedPostgres(data) as server:
        os.kill(postmaster_pid(data), signal.SIGKILL)
        hold(data).expect("held")
        assert query(server, "SELECT 1") == 1


def test_crashed_server_recovers(crashed: Path) -> None:
    with EmbeddedPostgres(crashed) as server:
        assert query(server, "SELECT count(*) FROM kept") == 0


def test_stranger_with_the_servers_pid_is_left_alone(crashed: Path) -> None:
    stranger = run_as_owner_of(crashed, "sleep", "100")
    claim_pid(crashed, stranger.pid)
    try:
        with EmbeddedPostgres(crashed) as server:
            assert query(server, "SELECT count(*) FROM kept") == 0
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_zombie_with_the_servers_pid_is_not_a_server(crashed: Path) -> None:
    zombie = run_as_owner_of(crashed, "true")
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # it has ended, but stays
    claim_pid(crashed, zombie.pid)
    with EmbeddedPostgres(crashed) as server:
        assert query(server, "SELECT count(*) FROM kept") == 0
    zombie.wait()


def test_address_stays_when_crashed_server_is_started_again(data: Path, place: Path) -> None:
    moved = data.rename(place / ("long" * 40))
    with EmbeddedPostgres(moved) as server:
        before = server.conninfo()
        os.kill(postmaster_pid(moved), signal.SIGKILL)
        stranger = run_as_owner_of(moved, "sleep", "100")
        claim_pid(moved, stranger.pid)
        server.start()
        assert server.conninfo() == before
        assert query(server, "SELECT count(*) FROM kept") == 0
        stranger.kill()
        stranger.wait()
    moved.rename(data)


def test_watchdog_leaves_stranger_with_the_servers_pid_alone(data: Path) -> None:
    server = EmbeddedPostgres(data).start()
    busy = psycopg.connect(server.conninfo())
    busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 3000000)")
    os.kill(postmaster_pid(data), signal.SIGKILL)
    stranger = run_as_owner_of(data, "sleep", "100")
    claim_pid(data, stranger.pid)
    server.stop()  # the busy backend is still there when the watchdog looks
    busy.close()
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def claim_pid(folder: Path, pid: int) -> None:
    for file in (folder / "pgdata/postmaster.pid", folder / "socket/.s.PGSQL.5432.lock"):
        _, *rest = file.read_text().splitlines()
        file.write_text("\n".join([str(pid), *rest, ""]))


def test_server_started_by_hand_is_respected(data: Path) -> None:
    with EmbeddedPostgres(data) as server:
        postgres = server.bin_dir / "postgres"
    options = ["-k", str(data / "socket"), "-c", "listen_addresses="]
    by_hand = run_as_owner_of(data, str(postgres), "-D", str(data / "pgdata"), *options)
    try:
        eventually((data / "socket/.s.PGSQL.5432").exists)
        with pytest.raises(EmbeddedPostgresError, match="did not start runs on"):
            EmbeddedPostgres(data).start()
        assert by_hand.poll() is None
    finally:
        by_hand.send_signal(signal.SIGINT)
        by_hand.wait(30)


def test_other_major_version_is_refused(data: Path) -> None:
    version = data / "pgdata" / "PG_VERSION"
    version.write_text("17\n")
    with pytest.raises(EmbeddedPostgresError, match=r"PostgreSQL 17.* PostgreSQL 18"):
        EmbeddedPostgres(data).start()
    version.write_text("18\n")


def test_killed_initdb_leaves_no_half_made_data(
    fresh: Path, hold: Callable[[Path], Holder]
) -> None:
    holder = hold(fresh)
    eventually((fresh / "pgdata.new" / "base").exists)
    holder.kill()
    assert not (fresh / "pgdata").exists()
    with EmbeddedPostgres(fresh) as server:
        assert query(server, "SELECT 1") == 1
        assert not (fresh / "pgdata.new").exists()


def test_failed_start_shows_the_log_and_leaves_nothing(data: Path) -> None:
    server = EmbeddedPostgres(data, settings={"shared_buffers": "plenty"})
    with pytest.raises(EmbeddedPostgresError, match=r'(?s)did not start.*"shared_buffers"'):
        server.start()
    eventually(lambda: not processes_of(data))
    with EmbeddedPostgres(data) as server:
        assert query(server, "SELECT 1") == 1
