"""The command `tracker`: the door that finds the commands."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Final

import click

from tracker import __version__

# Imported when they are called for: `tracker link add` should not wait for a web server to be imported.
_COMMANDS: Final = {
    "dev": "tracker.cli.dev:dev",
    "serve": "tracker.cli.serve:serve",
    "edge": "tracker.cli.serve:edge",
    "control": "tracker.cli.serve:control",
    "worker": "tracker.cli.serve:worker",
    "db": "tracker.cli.db:db",
    "program": "tracker.cli.entities:program",
    "partner": "tracker.cli.entities:partner",
    "link": "tracker.cli.entities:link",
    "coupon": "tracker.cli.entities:coupon",
    "click": "tracker.cli.records:clicks",
    "conversion": "tracker.cli.records:conversion",
    "outbox": "tracker.cli.outbox:outbox",
    "spool": "tracker.cli.spool:spool",
    "journal": "tracker.cli.postbacks:journal",
    "postbacks": "tracker.cli.postbacks:postbacks",
    "config": "tracker.cli.config:config",
    "verify": "tracker.cli.verify:verify",
    "bench": "tracker.cli.bench:bench",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="tracker")
def cli() -> None:
    """Click and conversion tracking: redirects at once, nothing acknowledged ever lost, every conversion counted once.

    \b
    Try it:            tracker dev
    Run it:            tracker serve            (settings: tracker config show)
    Make a link:       tracker link add --program shop --partner alice --to 'https://shop.example/?cid={click_id}'
    Is all accounted:  tracker verify

    Exit codes: 0 done, 1 found a difference or failed, 2 wrong usage or setting, 130 interrupted.
    """


def main() -> None:
    """Run a command; mistakes are sentences, never tracebacks."""
    try:
        sys.exit(cli.main(prog_name="tracker", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except click.UsageError as exc:
        words = " ".join(exc.format_message().split()).rstrip(".")
        click.echo(f"Error: {words}; see {exc.ctx.command_path if exc.ctx else 'tracker'} --help", err=True)
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())   # a reader like `head` has had enough
        sys.exit(0)
    except OSError as exc:      # a disk that cannot be read, a full one
        click.echo(f"Error: {exc}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
