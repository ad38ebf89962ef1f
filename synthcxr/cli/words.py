"""Words of a command line into one Config: what every verb shares."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from synthcxr.errors import UserError

Words = Annotated[list[str] | None, typer.Argument(help="CONFIG.yaml and key.path=value", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print the resolved config and end")]
Fresh = Annotated[bool, typer.Option("--fresh", help="start over in an output that holds another run")]
AsJson = Annotated[bool, typer.Option("--json", help="the result as JSON, for machines")]


def config_of(words: list[str] | None, cls: type) -> Any:
    """The Config that the words of a verb without prompts ask for."""
    config, overrides, rest = sort_words(words, cls)
    if rest:
        raise UserError(f"{rest[0]!r} must be CONFIG.yaml or key.path=value")
    return load(cls, config, overrides)


def sort_words(words: list[str] | None, cls: type) -> tuple[Path | None, list[str], list[str]]:
    """Positional words into at most one config file, overrides of known keys, and the rest (prompts)."""
    configs, overrides, rest = [], [], []
    for word in words or []:
        key = re.match(r"([a-z_]+)(\.[a-z_]+)*=", word)
        if word.endswith((".yaml", ".yml")):
            configs.append(Path(word))
        elif key and (key[1] in cls.model_fields or " " not in word):
            overrides.append(word)
        else:
            rest.append(word)
    if len(configs) > 1:
        raise UserError(f"{configs[1]}: one config file at most; put what differs as key.path=value")
    return (configs[0] if configs else None), overrides, rest


def given(flags: Mapping[str, Any]) -> list[str]:
    """Flags that were given, by the key each stands for, as overrides."""
    return [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]


def load(cls: type, config: Path | None, overrides: list[str]) -> Any:
    """`load_config`, imported only once a verb runs."""
    from synthcxr.config import load_config

    return load_config(cls, config, overrides)


def print_config(config: Any) -> None:
    """The resolved config on stdout, itself a valid input."""
    from synthcxr.config import dump_config

    print(dump_config(config), end="")
