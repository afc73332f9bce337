"""The revisions travel with the package: in a wheel, in an editable install, into a host's history.

The virtual environments see the packages of the one that runs the tests, so nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import URL, Engine, inspect, text

from eventstore import migrate

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
HOST_APP = Path(__file__).parent / "host_app"
TABLES = {
    "events",
    "event_tags",
    "streams",
    "snapshots",
    "subscriptions",
    "subject_keys",
    "subscription_workers",
    "parked_streams",
    "projections",
}
#: Those of the first revision, which is all that the host's own one needs.
FIRST_TABLES = {"events", "streams", "snapshots"}

SCENARIO = """
import sys
from sqlalchemy import create_engine
from eventstore import migrate

engine = create_engine(sys.argv[1])
migrate.upgrade(engine, schema="es")
migrate.check(engine, schema="es")
migrate.downgrade(engine, "base", schema="es")
assert migrate.current(engine, schema="es") is None
migrate.upgrade(engine, schema="es")
print(migrate.script_location())
"""


def run(
    *command: str | Path, cwd: Path, env: Mapping[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=clean | dict(env or {}), capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def plain(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def install(folder: Path, *what: str | Path) -> Path:
    """Make a virtual environment with the package in it; return its Python."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    shared = folder / "lib" / version / "site-packages" / "zz_shared.pth"
    shared.write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    run(python, "-m", "pip", "install", "--quiet", *options, *what, cwd=folder)
    return python


@pytest.fixture(scope="module")
def wheel_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool in ("build", "hatchling", "pip"):
        pytest.importorskip(tool)
    # A % in the path would be an interpolation to Alembic's configuration.
    folder = tmp_path_factory.mktemp("100%s")
    options = ["--wheel", "--no-isolation", "--outdir", folder]
    run(sys.executable, "-m", "build", *options, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return install(folder / "venv", wheel)


@pytest.fixture
def host(wheel_python: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(HOST_APP, tmp_path / "host_app"))


def test_from_a_wheel(
    wheel_python: Path, database_url: URL, engine: Engine, tmp_path: Path
) -> None:
    done = run(wheel_python, "-c", SCENARIO, plain(database_url), cwd=tmp_path)
    location = Path(done.stdout.strip())
    assert location.is_relative_to(wheel_python.parents[1])
    assert {path.name for path in location.iterdir()} >= {"env.py", "script.py.mako", "versions"}
    migrate.check(engine, schema="es")


def test_from_an_editable_install(database_url: URL, engine: Engine, tmp_path: Path) -> None:
    for tool in ("hatchling", "editables", "pip"):
        pytest.importorskip(tool)
    python = install(tmp_path / "venv", "--editable", ROOT)
    done = run(python, "-c", SCENARIO, plain(database_url), cwd=tmp_path)
    assert Path(done.stdout.strip()) == ROOT / "alembic"
    migrate.check(engine, schema="es")


def alembic(python: Path, host: Path, url: URL, *commands: str, check: bool = True) -> str:
    """Run commands one after another in one process, for its start is what takes long."""
    script = "from alembic.config import main; import sys; [main(c.split()) for c in sys.argv[1:]]"
    variables = {"HOST_DATABASE_URL": plain(url), "EVENTSTORE_DATABASE_URL": plain(url)}
    done = run(python, "-c", script, *commands, cwd=host, env=variables, check=check)
    return done.stdout + done.stderr


def test_one_history_with_the_hosts_revisions(
    wheel_python: Path, host: Path, database_url: URL, engine: Engine
) -> None:
    here = (wheel_python, host, database_url)

    def tables() -> set[str]:
        return set(inspect(engine).get_table_names()) - {"alembic_version"}

    assert "Multiple head revisions" in alembic(*here, "upgrade head", check=False)
    # Their revision needs ours, so that it comes along.
    alembic(*here, "upgrade host@head")
    assert tables() == FIRST_TABLES | {"orders"}
    alembic(*here, "upgrade heads", "check")
    assert tables() == TABLES | {"orders"}
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO streams (stream_id) VALUES ('order-1')"))
        connection.execute(text("INSERT INTO orders VALUES (1, 'order-1')"))
    alembic(*here, "downgrade host@base")
    assert tables() == TABLES
    alembic(*here, "upgrade heads", "check", "downgrade base")
    assert tables() == set()


def test_a_section_of_its_own_in_the_hosts_configuration(
    wheel_python: Path, host: Path, database_url: URL, engine: Engine
) -> None:
    commands = ("upgrade head", "check", "current")
    alembic(wheel_python, host, database_url, *(f"-n eventstore {command}" for command in commands))
    migrate.check(engine)
    assert "alembic_version" not in inspect(engine).get_table_names()
