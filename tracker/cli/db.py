"""`tracker db`: schema.sql into a database, what a database lacks of it, and who may do what in it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from tracker.cli.database import data_option
from tracker.cli.session import with_session
from tracker.storage.schema import NewerSchemaError, apply_schema, check_schema


@click.group()
def db() -> None:
    """The database's tables.

    \b
    Example:
      TRACKER_DATABASE_URL=postgresql://tracker@db/tracker tracker db init
    """


@db.command()
@data_option
def init(data: Path | None) -> None:
    """Make the tables; applied again, it changes nothing.

    \b
    Example:
      tracker db init
    """
    try:
        made = with_session(data, apply_schema)
    except NewerSchemaError as exc:
        raise click.ClickException(f"{exc}: install the newer program") from exc
    click.echo("the tables are made" if made else "the tables were there; nothing changed")


@db.command()
@data_option
def check(data: Path | None) -> None:
    """Say how the database differs from schema.sql; exit code 1 if it does.

    \b
    Example:
      tracker db check
    """
    differences = with_session(data, check_schema)
    for line in differences:
        click.echo(line)
    if differences:
        raise SystemExit(1)
    click.echo("the database is as schema.sql says")


@db.command()
def roles() -> None:
    """Print the database roles and their grants, as SQL for psql; applied again, it changes nothing.

    \b
    Example:
      tracker db roles | psql --set ON_ERROR_STOP=1 postgresql://admin@db/tracker
    """
    click.echo(resources.files("tracker.storage").joinpath("roles.sql").read_text(), nl=False)
