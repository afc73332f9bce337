"""A process that holds the server of a folder until it is told to stop, or is killed.

Writes "held" once it holds the server and "left" once it has left it, each on a line.
"""

from __future__ import annotations

import sys

from eventstore.embedded import EmbeddedPostgres

with EmbeddedPostgres(sys.argv[1], settings={"fsync": "off"}):
    sys.stdout.write("held\n")
    sys.stdout.flush()
    sys.stdin.readline()
sys.stdout.write("left\n")
