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

#: A worker that is silent for longer hangs. Filling a store with millions of events takes minutes.
PATIENCE_SECONDS: Final = 3_600
_ENDING_SECONDS: Final = 10


class Unavailable(Exception):
    """A contender can't take part; the message is the reason, for a person."""


class WorkerFailed(Unavailable):
    """A worker has failed, died, or says what it should not."""


class WorkerProcess:
    """A worker, from its start to the end of the block."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
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
        """Close its input, which ends it."""
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
        try:
            self._process.stdin.write(protocol.encode(request))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerFailed(self._last_words()) from None

    def receive(self, expected: type[ReplyT]) -> ReplyT:
        """Return the reply to the oldest request without one. Errors are those of :meth:`ask`."""
        assert self._process.stdout is not None
        # One line for each request: what select sees is never hidden in a buffer.
        if not select.select([self._process.stdout], [], [], PATIENCE_SECONDS)[0]:
            self._process.kill()
            raise WorkerFailed(f"no answer within {PATIENCE_SECONDS} s")
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
        self._process.wait(_ENDING_SECONDS)
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return f"ended with {self._process.returncode}: {lines[-1] if lines else 'silently'}"
