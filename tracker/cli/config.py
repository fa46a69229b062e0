"""`tracker config`: check the settings of a role, or show them masked. And how every command reads its settings.

What a setting is and may be stands in tracker/settings.py; here it only meets a person.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO, Any

import click

from tracker.settings import Mistake, Role, Settings, SettingsError, shown


class WrongSettings(click.ClickException):
    """Settings that cannot be used: one line per mistake on stderr, exit code 2."""

    exit_code = 2

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.message, file=file, err=file is None)


def read_settings(role: Role, environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings for a command; unknown names, where they are not refused, are told on stderr. Raises WrongSettings."""
    try:
        settings = Settings.read(environ, role=role)
    except SettingsError as exc:
        raise WrongSettings(exc.mistakes) from exc
    for warning in settings.warnings:
        click.echo(f"warning: {warning}", err=True)
    return settings


@click.group()
def config() -> None:
    """Check and show the settings (environment variables TRACKER_…).

    \b
    Example:
      tracker config check --role edge
    """


@config.command()
@click.option("--role", type=click.Choice(["serve", "edge", "control"]), default="serve", show_default=True,
              help="Check what this role needs.")
def check(role: Role) -> None:
    """Say every mistake in the settings at once; exit code 2 if there is one.

    Stricter than the role itself: names that an edge would only warn of are mistakes here.

    \b
    Example:
      TRACKER_SYNC=50ms tracker config check
    """
    mistakes: list[Mistake] = []
    for one in (role, "config"):
        try:
            Settings.read(os.environ, role=one)
        except SettingsError as exc:
            mistakes += [mistake for mistake in exc.mistakes if mistake not in mistakes]
    if mistakes:
        raise WrongSettings(tuple(mistakes))
    click.echo(f"settings are good for tracker {role}")


@config.command()
def show() -> None:
    """Show every setting and its value, or its default; secrets are masked.

    \b
    Example:
      tracker config show
    """
    rows = shown(os.environ)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        click.echo(f"{name.ljust(width)}  {text}")
