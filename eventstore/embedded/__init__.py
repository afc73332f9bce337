"""A private PostgreSQL server from a wheel: nothing to install, configure or clean up.

    from eventstore.embedded import EmbeddedPostgres

    with EmbeddedPostgres("./data") as server:
        engine = sqlalchemy.create_engine(server.url())

Needs the extra `eventstore[embedded]`, of whose package only the binaries are used.


The protocol
------------

Several processes may share one data folder, and each may be killed at any time. All that they
need to know of each other is therefore kept in `flock` locks, which the kernel gives back when
a process dies: no counts, states or process ids in files that may be out of date. There are
four, each in a file of its own in the data folder:

`holders`   The reference count. A holder has it shared from `start` to `stop`. Who gets it
            exclusively knows that there is no holder, and that none can come meanwhile.
`server`    Exclusive, inherited by `initdb`, by PostgreSQL and by every process they fork. It is
            free if and only if none of them is left, be it a backend that outlives a killed
            postmaster. Zombies hold no locks, and a process that got a dead one's id does not
            either.
`watchdog`  Exclusive, inherited by the watchdog, of which there is thus only one.
`change`    Exclusive, by a holder who is starting or leaving: one at a time.

*Start*: take `change`; take `holders`; start a watchdog if `watchdog` is free; start a server
if `server` is free; wait until it accepts connections; release `change`.

*Stop*: take `change`; release `holders`; wait until others hold it or the watchdog has
finished; release `change`.

*Watchdog*: wait for `holders` exclusively; stop the server; wait for `server`; delete a
temporary folder; release `watchdog`, then `holders`; end.

Why it works:

- Only the watchdog stops a server, so that leaving and being killed take the same way. It
  waits in the kernel and costs nothing meanwhile.
- It keeps `holders` while it stops the server. A newcomer waits for it in *start* and then finds
  `server` and `watchdog` free: it never joins a server that is about to go.
- Order: `change` before `holders` before `watchdog` and `server`. The watchdog never takes
  `change`, so that nobody waits in a circle.
- The watchdog is started before the server. If the starter is killed in between, the watchdog
  gets `holders` and waits until the server, if `server` says there is one, can be told to stop.
- No lock is converted from shared to exclusive, which is not atomic (flock(2)): a leaving holder
  releases first, and then asks whether others are left. In doing so it may itself hold the lock
  for an instant; `change` keeps that from being mistaken for a holder.
- A killed watchdog is replaced by the next who starts or leaves.
- The server and the watchdog are nobody's children and in sessions of their own: they outlive
  the process that started them, and Ctrl-C does not reach them.

Sources: flock(2); the PostgreSQL manual, "Shutting Down the Server" (fast shutdown) and
"Preventing Server Spoofing" (a socket's folder closed to others); PostgreSQL's `miscinit.c`
(`CreateLockFile`) and `sysv_shmem.c` (`PGSharedMemoryCreate`) for its own interlocks.
"""

from eventstore.embedded._errors import EmbeddedPostgresError, EmbeddedPostgresMissingError
from eventstore.embedded._server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "EmbeddedPostgresMissingError"]
