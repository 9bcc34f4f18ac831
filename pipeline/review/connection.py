"""FiftyOne, imported with its settings and connected to a database for as long as a block runs."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from pipeline.review.database import open_database
from pipeline.review.mongod import URI_VARIABLE

_QUIET = {
    "FIFTYONE_DO_NOT_TRACK": "true",
    "FIFTYONE_DATABASE_VALIDATION": "false",  # else a notice on MongoDB 6 goes to stdout; find_mongod checks versions
    "FIFTYONE_LOGGING_LEVEL": "ERROR",
    "FIFTYONE_SHOW_PROGRESS_BARS": "false",
}


@contextlib.contextmanager
def connected_fiftyone() -> Iterator[Any]:
    """Have FiftyOne connected to our database, or to the user's.

    Yields:
        The module `fiftyone`; importing it takes 4 to 8 s.

    Raises:
        UserError: No MongoDB server can run here, or it does not start or answer.
    """
    with open_database() as uri, _environment({URI_VARIABLE: uri, **_QUIET}):
        import fiftyone as fo
        import fiftyone.core.odm.database as database
        from fiftyone.factory import repo_factory

        fo.config.database_uri = uri  # where something imported FiftyOne before us
        database._disconnect()
        fo.list_datasets()  # sets up a new database before a second process can
        try:
            yield fo
        finally:
            repo_factory.RepositoryFactory.repos.clear()  # they keep a connection to this database
            repo_factory._db = None
            database._disconnect()  # or its farewell at exit waits 30 s for a server that has gone


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables, for children too; a user's own value wins except for the database's URI."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.pop("FIFTYONE_PRIVATE_DATABASE_PORT", None)
    for name, value in values.items():
        if name == URI_VARIABLE:
            os.environ[name] = value
        else:
            os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old
