"""``python -m examples.flights.psql``: PostgreSQL's own shell on the data of the demo."""

from __future__ import annotations

import argparse
import subprocess
import sys

from eventstore.embedded import EmbeddedPostgres
from examples.flights import data_dir, timetable

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.flights.psql", description=__doc__)
    parser.add_argument("--days", type=int, default=timetable.DAYS, help="as the demo was run")
    folder = data_dir(parser.parse_args().days)
    if not folder.exists():
        sys.exit(f"{folder} is missing; run python -m examples.flights first")
    with EmbeddedPostgres(folder) as server:
        psql = [str(server.bin_dir / "psql"), server.conninfo()]
        subprocess.run(psql, check=False)  # noqa: S603 - nothing of it comes from outside
