"""``python -m examples.wordbook``: the application, on an embedded PostgreSQL.

It listens on the loopback interface only, at http://127.0.0.1:8000; ``/docs`` shows what it
understands. Ctrl-C ends it, and with it the temporary database; ``--data-dir`` names a folder that
keeps the data, ``--database-url`` a database of yours. What is kept longer needs a key that is:
``EVENTSTORE_MASTER_KEY``, see ``docs/how-to/personal-data.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import uvicorn
from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import sessionmaker

from eventstore.embedded import EmbeddedPostgres
from eventstore.personal import MasterKeys
from examples.wordbook.database import prepare
from examples.wordbook.progress.events import registry
from examples.wordbook.study.keeping import bring_up, kept
from examples.wordbook.web.app import create_app
from examples.wordbook.words import publish_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL


def main() -> None:
    """Prepare the database, keep the projections, and serve."""
    arguments = parse_arguments()
    registry.use_keys(master_keys(arguments))
    with database(arguments) as url:
        engine = create_engine(url)
        prepare(engine)
        publish_all(sessionmaker(engine))
        bring_up(engine)  # so that nobody is shown less than there is
        with kept(engine), suppress(KeyboardInterrupt):
            asyncio.run(serve(url, arguments.port))
        engine.dispose()


def parse_arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m examples.wordbook", description=main.__doc__)
    parser.add_argument("--port", type=int, default=8000, help="0 takes any that is free")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--data-dir", help="where an embedded PostgreSQL keeps the data")
    where.add_argument("--database-url", type=make_url, help="postgresql+psycopg://...")
    return parser.parse_args()


@contextmanager
def database(arguments: argparse.Namespace) -> Iterator[URL]:
    """Yield the URL of the database to use."""
    if arguments.database_url is not None:
        yield arguments.database_url
        return
    with EmbeddedPostgres(arguments.data_dir) as server:
        yield server.url()


def master_keys(arguments: argparse.Namespace) -> MasterKeys:
    """Return what the learners' keys are kept by; a temporary database needs no lasting ones."""
    if arguments.database_url is None and arguments.data_dir is None:
        return MasterKeys(os.urandom(32))
    return MasterKeys.from_environment()


async def serve(url: URL, port: int) -> None:
    """Answer requests until a signal ends it."""
    engine = create_async_engine(url)
    try:
        config = uvicorn.Config(create_app(engine), host="127.0.0.1", port=port)
        await uvicorn.Server(config).serve()
    finally:
        await engine.dispose()


if __name__ == "__main__":
    main()
