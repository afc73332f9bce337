"""Worker processes, as the controller sees them."""

from __future__ import annotations

import select
import subprocess
import tempfile
from typing import IO, TYPE_CHECKING, Final, Self, TypeVar

from benchmarks import protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ReplyT = TypeVar("ReplyT", bound=protocol.Reply)

#: A worker that is silent for longer hangs, if it isn't busy with many events,
PATIENCE_SECONDS: Final = 180
#: of which the slowest does so many a second.
_LEAST_EVENTS_PER_SECOND: Final = 200
_ENDING_SECONDS: Final = 10


class Unavailable(Exception):
    """A contender can't take part; the message is the reason, for a person."""


class WorkerFailed(Unavailable):
    """A worker has failed, died, or says what it should not."""


def patience_seconds(request: protocol.Request) -> float:
    """Return how long the reply may take."""
    match request:
        case protocol.Fill(events=events) | protocol.Run(events=events):
            return PATIENCE_SECONDS + events / _LEAST_EVENTS_PER_SECOND
    return PATIENCE_SECONDS


class WorkerProcess:
    """A worker, from its start to the end of the block."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._patience_seconds: float = PATIENCE_SECONDS
        # A file, not a pipe: nobody reads what a library warns of, until the worker fails.
        self._errors: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
        except OSError as error:
            self._errors.close()
            raise Unavailable(f"{command[0]} can't be started: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close its input, which ends it; again is nothing."""
        if self._errors.closed:
            return
        try:
            self._process.communicate(timeout=_ENDING_SECONDS)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.communicate()
        self._errors.close()

    def ask(self, request: protocol.Request, expected: type[ReplyT]) -> ReplyT:
        """Send a request, and return the reply to it.

        :raises Unavailable: the worker has skipped it, or failed.
        """
        self.send(request)
        return self.receive(expected)

    def send(self, request: protocol.Request) -> None:
        """Send a request whose reply is received later, so that several workers are at work."""
        assert self._process.stdin is not None
        self._patience_seconds = patience_seconds(request)
        try:
            self._process.stdin.write(protocol.encode(request))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFailed(self._last_words()) from None

    def receive(self, expected: type[ReplyT]) -> ReplyT:
        """Return the reply to the oldest request without one. Errors are those of :meth:`ask`."""
        assert self._process.stdout is not None
        # One line for each request: what select sees is never hidden in a buffer.
        if not select.select([self._process.stdout], [], [], self._patience_seconds)[0]:
            self._process.kill()
            raise WorkerFailed(f"no answer within {self._patience_seconds:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise WorkerFailed(self._last_words())
        try:
            reply = protocol.decode(line)
        except protocol.ProtocolError as error:
            raise WorkerFailed(str(error)) from error
        match reply:
            case protocol.Skipped(reason=reason):
                raise Unavailable(reason)
            case protocol.Failed(reason=reason):
                raise WorkerFailed(f"failed: {reason}")
            case expected():
                return reply
        raise WorkerFailed(f"answered with {type(reply).__name__} instead of {expected.__name__}")

    def _last_words(self) -> str:
        try:
            self._process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:  # it has closed its output, and lives
            self._process.kill()
            self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return f"ended with {self._process.returncode}: {lines[-1] if lines else 'silently'}"
