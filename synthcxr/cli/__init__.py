"""The command line: one verb a capability. Heavy imports stay inside the verbs, so that --help answers at once."""

import logging
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from synthcxr import __version__
from synthcxr.cli.datasets import curate, export, prepare, verify
from synthcxr.cli.drawing import demo, generate
from synthcxr.cli.models import audit, calibrate, downstream, evaluate, push_to_hub, synthesize, train
from synthcxr.errors import UserError

__all__ = ["app", "main"]

VERBS = (
    generate, prepare, curate, verify, export, train, push_to_hub, synthesize, calibrate, evaluate, audit, downstream,
    demo,
)  # fmt: skip

app = typer.Typer(
    help="Synthetic chest radiographs: generate, retrain, prepare data. Research only, not for diagnosis.",
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode=None,
)  # fmt: skip
for verb in VERBS:
    app.command()(verb)


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


def main() -> None:
    """The entry point: a user's mistake is one line on stderr and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """An exception, unlike the default, lets temporary files be removed on the way out."""
    sys.exit(128 + number)
