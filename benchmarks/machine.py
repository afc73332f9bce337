"""Where, when and with what it was measured."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psycopg
from pydantic import BaseModel, ConfigDict

from benchmarks.databases import DURABILITY
from benchmarks.tables import PAYLOAD

#: What a figure depends on.
_SETTINGS: Final = (
    *DURABILITY,
    "wal_sync_method",
    "wal_level",
    "shared_buffers",
    "max_wal_size",
    "max_connections",
)
_SYNC_SECONDS: Final = 0.15
_BLOCK: Final = b"\0" * 8192


class Conditions(BaseModel):
    """What the machine was like, just before a workload."""

    model_config = ConfigDict(frozen=True)

    load_average: float  #: of the last minute
    syncs_per_second: float  #: fdatasync of one block, in the folder for temporary files


class Machine(BaseModel):
    """The machine, its database server and the software."""

    model_config = ConfigDict(frozen=True)

    date: datetime
    revision: str
    cores: int
    cpu: str
    system: str
    postgresql: str
    settings: dict[str, str]
    versions: dict[str, dict[str, str]]  #: by contender: its language, library and driver
    payload_bytes: int


def look_at(conninfo: str, versions: dict[str, dict[str, str]]) -> Machine:
    """Return what can be known of the machine and of the server."""
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(
            "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)",
            ([*_SETTINGS, "server_version"],),
        ).fetchall()
    settings: dict[str, str] = dict(rows)
    return Machine(
        date=datetime.now(UTC).replace(microsecond=0),
        revision=_revision(),
        cores=os.cpu_count() or 0,
        cpu=_cpu(),
        system=f"{platform.system()} {platform.release()}",
        postgresql=settings.pop("server_version"),
        settings=settings,
        versions=versions,
        payload_bytes=len(PAYLOAD.model_dump_json()),
    )


def conditions() -> Conditions:
    """Measure the machine's mood, which changes from minute to minute."""
    return Conditions(
        load_average=round(os.getloadavg()[0], 2), syncs_per_second=round(_syncs_per_second())
    )


def _syncs_per_second() -> float:
    # Linux's call; macOS has fsync alone.
    sync = getattr(os, "fdatasync", os.fsync)
    with tempfile.TemporaryFile() as file:
        count, start = 0, time.perf_counter()
        while (now := time.perf_counter()) < start + _SYNC_SECONDS:
            file.write(_BLOCK)
            file.flush()
            sync(file.fileno())
            count += 1
    return count / (now - start)


def _revision() -> str:
    """Return the commit, with ``-dirty`` if files differ from it; empty outside of a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    root = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _cpu() -> str:
    # platform.processor() is empty on most Linux systems.
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
