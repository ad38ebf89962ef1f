"""What a user can get wrong: one line that names the file or field, the rule and the remedy.

The command line prints `error: <message>` and exits with code 2; any other exception is a bug and keeps its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class UserError(Exception):
    """A user's mistake; `str(error)` is one line, whatever line breaks the message was built from."""

    def __init__(self, message: str = "") -> None:
        super().__init__(" ".join(str(message).split()))


class ConfigError(UserError):
    """A configuration file or a `key.path=value` override breaks a rule."""


class ConditionError(UserError):
    """A prompt or a structured condition says something impossible or unknown."""


class SourceError(UserError):
    """The files of a source are missing or not laid out as the source's publisher lays them out."""


class DatasetError(UserError):
    """A folder is no dataset, or one that contradicts itself."""


class ImageError(UserError):
    """An image can't be read, or can't be written as asked."""


class ModelError(UserError):
    """A folder is no model, or one that can't do what was asked of it."""


class RunError(UserError):
    """A run folder holds something else than this run."""


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """The end of an error message: "; did you mean 'X'?" for the closest option, or "" where none is close.

    Case is ignored in comparing; the option is given in its own spelling.
    """
    by_lower = {str(option).lower(): str(option) for option in options}
    close = get_close_matches(str(name).lower(), list(by_lower), n=1, cutoff=0.6)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""


def one_of(name: str, options: Iterable[str]) -> str:
    """`name`, which must be one of the options.

    Raises:
        ValueError: it isn't (with the nearest one); in a validator, the field is named with it.
    """
    options = list(options)
    if name not in options:
        raise ValueError(f"must be one of {', '.join(options)}{did_you_mean(name, options)}")
    return name


def shown(path: Path | str) -> str:
    """A path as a message names it: relative to the working folder where it lies inside it, else as it is."""
    path = Path(path)
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
