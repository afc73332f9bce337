"""Where CPU time goes: `python -m benchmarks.profiles before=REVISION after=HEAD`.

The main paths of our store are run with the code of each revision, in turns, and sampled by py-spy.
Shares of CPU time say something on a busy machine too. C and Rust have no frames: what psycopg's
and pydantic's compiled parts take counts for the function of Python that calls them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from sqlalchemy import make_url

from benchmarks.controller import Unavailable
from benchmarks.databases import conninfo, postgresql
from benchmarks.install import FOLDER
from benchmarks.profiled import PATHS
from eventstore.testing.databases import temporary_database

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sqlalchemy import URL

_ROOT: Final = FOLDER.parent
_PER_SECOND: Final = 250  #: samples
#: The frame of `profiled.py` below which everything is told.
_TOP: Final = "profiled (profiled.py"
#: Packages whose shares are told; others are Python's.
_PACKAGES: Final = ("eventstore", "sqlalchemy", "psycopg", "pydantic")


@dataclass(frozen=True, kw_only=True)
class Revision:
    """Code that is profiled, unpacked where it runs, and a store of its own."""

    label: str
    name: str  #: as the user gives it
    commit: str
    folder: Path
    url: str


@dataclass(kw_only=True)
class Profile:
    """Samples by the function that was at work, and by all that waited for it to return."""

    own: Counter[str] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)
    #: Of each round.
    cpu_microseconds: list[float] = field(default_factory=list)

    def add(self, folded: Iterable[str]) -> None:
        """Add stacks as py-spy's format "raw" has them: frames, outermost first, and a number."""
        for line in folded:
            stack, _, number = line.rpartition(" ")
            frames = stack.split(";")
            top = next((n for n, frame in enumerate(frames) if frame.startswith(_TOP)), None)
            if top is None:  # imports and warming up
                continue
            self.own[frames[-1]] += int(number)
            for frame in set(frames[top:]):
                self.total[frame] += int(number)

    @property
    def samples(self) -> int:
        return self.own.total()

    def packages(self) -> dict[str, float]:
        """Return the share of each package; what is none of them is Python's own."""
        shares: Counter[str] = Counter()
        for frame, number in self.own.items():
            shares[package_of(frame)] += number
        return {package: number / self.samples for package, number in shares.most_common()}


def package_of(frame: str) -> str:
    """Return the package of a frame such as ``Session.close (sqlalchemy/orm/session.py:2685)``."""
    _, _, file = frame.rpartition(" (")
    folder = file.partition("/")[0]
    for package in _PACKAGES:
        if folder.startswith(package):  # psycopg_binary too
            return package
    return "benchmark" if folder.startswith(("profiled.py", "contents.py")) else "Python"


def unpack(revision: str, folder: Path) -> str:
    """Write the library's code there as it was, and return its commit.

    :raises Unavailable: there is no such revision here.
    """
    commit = _git("rev-parse", "--short=12", f"{revision}^{{commit}}").decode().strip()
    archive = _git("archive", commit, "eventstore", "alembic")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return commit


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, check=False)
    if done.returncode:
        raise Unavailable(f"git {arguments[0]}: {done.stderr.decode().strip()}")
    return done.stdout


def run_driver(revision: Revision, *arguments: str, prefix: Iterable[str | Path] = ()) -> str:
    """Run `profiled.py` on the revision's code, and return what it prints.

    :raises Unavailable: it fails.
    """
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "benchmarks.profiled", *arguments],
        cwd=revision.folder,
        # The library of the revision, and the benchmark of today.
        env=os.environ | {"PYTHONPATH": f"{revision.folder}{os.pathsep}{_ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"{revision.name}: {lines[-1] if lines else done.returncode}")
    return done.stdout


def sample(revision: Revision, path: str, seconds: float, profile: Profile) -> None:
    """Let py-spy look at the path, and add what it has seen."""
    py_spy = Path(sys.executable).with_name("py-spy")
    if not py_spy.exists():
        raise Unavailable("py-spy is not installed: pip install --group bench")
    stacks = revision.folder / "stacks.txt"
    printed = run_driver(
        revision,
        *(path, revision.url, str(seconds)),
        prefix=[
            *(py_spy, "record", "--format=raw", "--function", f"--rate={_PER_SECOND}"),
            *("--output", stacks, "--"),
        ],
    )
    profile.add(stacks.read_text().splitlines())
    # py-spy speaks in between.
    result = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    profile.cpu_microseconds.append(result["cpu_seconds"] / result["events"] * 1e6)


def take(
    revisions: list[Revision], *, rounds: int, seconds: float
) -> dict[str, dict[str, Profile]]:
    """Return a profile of each path, by the revision's label. The revisions take turns."""
    profiles = {revision.label: {path: Profile() for path in PATHS} for revision in revisions}
    for path in PATHS:
        for number in range(rounds):
            for revision in revisions if number % 2 == 0 else reversed(revisions):
                sample(revision, path, seconds, profiles[revision.label][path])
    return profiles


def page(revision: Revision, profiles: Mapping[str, Profile], top: int) -> Iterator[str]:
    """Yield the lines of a page in Markdown."""
    libraries = ("SQLAlchemy", "psycopg", "pydantic")
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    yield f"# Where CPU time goes: {revision.label}"
    yield ""
    yield (
        "Written by `make bench-profile`: samples of the client's process by py-spy, while it"
        " computes. C and Rust count for the function of Python that calls them: pydantic's for"
        " that of ours, psycopg's for its own cursors'. A session for each call, in AUTOCOMMIT."
    )
    yield ""
    yield f"Revision {revision.commit}, Python {sys.version.split()[0]}, {versions}."
    yield ""
    yield (
        f"Load average {os.getloadavg()[2]:.1f} on {os.cpu_count()} cores: where that is high, all"
        " microseconds are, and only those of revisions that took turns compare."
    )
    yield ""
    yield "| | CPU microseconds an event | share of each package |"
    yield "|---|---:|---|"
    for path, profile in profiles.items():
        shares = ", ".join(f"{name} {share:.0%}" for name, share in profile.packages().items())
        yield f"| {path} | {median(profile.cpu_microseconds):.0f} | {shares} |"
    for path, profile in profiles.items():
        yield from ("", f"## {path}", "", f"{profile.samples} samples.", "", "```text")
        yield f"{'self':>6}{'total':>7}  function"
        for frame, number in profile.own.most_common(top):
            total = profile.total[frame]
            yield f"{number / profile.samples:>6.1%}{total / profile.samples:>7.1%}  {frame}"
        yield "```"


def parse_revision(text: str) -> tuple[str, str]:
    label, equals, revision = text.partition("=")
    if not (equals and revision and label.isidentifier()):
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL=REVISION, as before=HEAD~10 is")
    return label, revision


def prepare(label: str, name: str, server: URL, made: ExitStack) -> Revision:
    """Unpack the revision, and make a store with its tables."""
    folder = Path(made.enter_context(tempfile.TemporaryDirectory(prefix="profile-")))
    url = conninfo(made.enter_context(temporary_database(server)))
    commit = unpack(name, folder)
    revision = Revision(label=label, name=name, commit=commit, folder=folder, url=url)
    run_driver(revision, "set_up", url)
    return revision


def main() -> None:
    """Profile the main paths with the code of each revision, and write a page for each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiles", description=main.__doc__)
    parser.add_argument(
        "revisions",
        nargs="*",
        type=parse_revision,
        default=[("before", "b2d289b"), ("after", "HEAD")],
        metavar="LABEL=REVISION",
        help="by default before=b2d289b, ahead of the work on speed, and after=HEAD",
    )
    parser.add_argument(
        "--database-url", type=make_url, help="a server, instead of an embedded one"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of a path in one round")
    parser.add_argument("--top", type=int, default=15, metavar="FUNCTIONS")
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER")
    arguments = parser.parse_args()
    with ExitStack() as made:
        server = made.enter_context(postgresql(arguments.database_url))
        try:
            revisions = [prepare(label, name, server, made) for label, name in arguments.revisions]
            profiles = take(revisions, rounds=arguments.rounds, seconds=arguments.seconds)
        except Unavailable as error:
            sys.exit(str(error))
        arguments.out.mkdir(parents=True, exist_ok=True)
        for revision in revisions:
            file = arguments.out / f"profiles-{revision.label}.md"
            lines = page(revision, profiles[revision.label], arguments.top)
            file.write_text("\n".join(lines) + "\n")
            print(file)


if __name__ == "__main__":
    main()
