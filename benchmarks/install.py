"""The peers' environments: `python -m benchmarks.install` makes those that can be had here.

What is installed is in `peers.toml`, pinned; where, is `.peers/`, of which nothing is committed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.controller import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FOLDER: Final = Path(__file__).parent
PEERS: Final = FOLDER / ".peers"
#: Names a Python for the peers, instead of the ones that are found.
PYTHON_VARIABLE: Final = "BENCH_PYTHON"
_RELEASES: Final = range(14, 10, -1)
_VERSION_SCRIPT: Final = "import sys; print(*sys.version_info[:2])"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What a peer needs, as it stands in `peers.toml`."""

    name: str
    python: str | None = None
    pip: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return PEERS / self.name

    @property
    def bin(self) -> Path:
        """The programs of its virtual environment."""
        return self.folder / "venv" / "bin"

    @property
    def interpreter(self) -> Path:
        """The Python of its virtual environment."""
        return self.bin / "python"


@dataclass(frozen=True)
class Python:
    """An interpreter that was found on this machine."""

    path: Path
    version: tuple[int, int]


def read_peers(file: Path = FOLDER / "peers.toml") -> dict[str, Peer]:
    """Return what is pinned, by name."""
    tables = tomllib.loads(file.read_text())
    return {
        name: Peer(
            name=name,
            python=table.get("python"),
            pip=tuple(table.get("pip", ())),
            npm=tuple(table.get("npm", ())),
        )
        for name, table in tables.items()
    }


def install(peer: Peer) -> None:
    """Make the peer's environment, unless the very same is there.

    :raises Unavailable: what it needs can't be had here.
    """
    python = choose_python(peer, found_pythons()) if peer.pip else None
    contents = json.dumps([python and [str(python.path), python.version], peer.pip, peer.npm])
    done = peer.folder / "installed.json"
    if done.exists() and done.read_text() == contents:
        return
    shutil.rmtree(peer.folder, ignore_errors=True)
    peer.folder.mkdir(parents=True)
    if python:
        _run([python.path, "-m", "venv", peer.folder / "venv"])
        _run([peer.interpreter, "-m", "pip", "install", "--quiet", *peer.pip])
    if peer.npm:
        npm, node = shutil.which("npm"), shutil.which("node")
        if npm is None or node is None:
            raise Unavailable("Node is not installed: no node or no npm on PATH")
        _run([npm, "install", "--no-audit", "--no-fund", "--prefix", peer.folder, *peer.npm])
    done.write_text(contents)


def choose_python(peer: Peer, found: Sequence[Python]) -> Python:
    """Return the interpreter that runs the peer: ours if it can, else the newest that can.

    Contenders on one interpreter are measured alike; the others' versions are in the report.

    :raises Unavailable: there is none.
    """
    assert peer.python is not None
    oldest = tuple(map(int, peer.python.split(".")))
    fit = [python for python in found if python.version >= oldest]
    if not fit:
        raise Unavailable(
            f"needs Python {peer.python}, and none was found; set {PYTHON_VARIABLE} to one"
        )
    return fit[0]


def found_pythons() -> list[Python]:
    """Return the interpreters of this machine: our own first, then the newest.

    Looked for are those of the variable BENCH_PYTHON (then nothing else), on PATH as
    `python3.x`, and those of pyenv.
    """
    if wanted := os.environ.get(PYTHON_VARIABLE):
        chosen = shutil.which(wanted)
        version = _python_version(Path(chosen)) if chosen else None
        return [Python(Path(chosen), version)] if chosen and version else []
    found = {sys.version_info[:2]: Python(Path(sys.executable), sys.version_info[:2])}
    for path in _candidates():
        if version := _python_version(path):
            found.setdefault(version, Python(path, version))
    ours = found.pop(sys.version_info[:2])
    return [ours, *sorted(found.values(), key=lambda python: python.version, reverse=True)]


def _candidates() -> Iterator[Path]:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for minor in _RELEASES:
        if on_path := shutil.which(f"python3.{minor}"):
            yield Path(on_path)
        yield from sorted(pyenv.glob(f"3.{minor}.*/bin/python"), reverse=True)


def _python_version(path: Path) -> tuple[int, int] | None:
    """Return the version; None if it doesn't run: pyenv has scripts for those it hasn't chosen."""
    done = subprocess.run(
        [path, "-c", _VERSION_SCRIPT], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return None
    major, minor = map(int, done.stdout.split())
    return major, minor


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"can't be installed: {lines[-1] if lines else command[0]}")


def main() -> None:
    """Make the peers' environments, and say of each whether it could be had."""
    peers = read_peers()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.install", description=main.__doc__)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(peers)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.peers).difference(peers):
        parser.error(f"there is no peer {', '.join(sorted(unknown))}")
    for name in arguments.peers or peers:
        print(f"{name}: ", end="", flush=True)
        try:
            install(peers[name])
        except Unavailable as error:
            print(f"skipped, {error}")
        else:
            print("installed")


if __name__ == "__main__":
    main()
