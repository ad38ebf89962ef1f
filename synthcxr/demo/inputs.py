"""What a browser, or a script, may send: each input has a limit, and breaking it is answered in one line."""

import html
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from synthcxr.conditions import Condition, parse_prompt
from synthcxr.errors import UserError

MAX_COUNT, MAX_STEPS, MAX_GUIDANCE, MAX_PROMPT, MAX_ROWS = 16, 100, 10, 400, 64
MAX_SEED = 2**53 - MAX_COUNT  # beyond 2^53 a browser's numbers skip some whole ones


@contextmanager
def one_line() -> Iterator[None]:
    """A user's mistake becomes a message on the page, which renders messages as HTML."""
    try:
        yield
    except UserError as error:
        raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None


def condition_of(prompt: Any) -> Condition:
    """What a prompt says, without what names people and days.

    Raises:
        UserError: no text, too long a one, or an age that nobody has.
    """
    if not isinstance(prompt, str):
        raise UserError("prompt must be text")
    if len(prompt) > MAX_PROMPT:  # the text box holds only browsers to it
        raise UserError(f"prompt has {len(prompt):,} characters; shorten it to {MAX_PROMPT}")
    if any("\ud800" <= letter <= "\udfff" for letter in prompt):  # JSON can hold one half of a pair, no file can
        raise UserError("prompt holds half a character; type it again")
    from synthcxr.generate_run import without_identifiers

    return parse_prompt(without_identifiers(prompt))


def number(name: str, value: Any, low: float, high: float) -> float:
    """A number within its limits; raises UserError with the name."""
    if value is None or value == "":
        raise UserError(f"{name} is empty; give a number from {low} to {high}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # so is NaN
        raise UserError(f"{name} = {str(value)[:30]} must be a number from {low} to {high}")
    return float(value)


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number within its limits; raises UserError with the name."""
    told = number(name, value, low, high)
    if not told.is_integer():
        raise UserError(f"{name} = {told:g} must be a whole number")
    return int(told)


def chosen(name: str, value: Any, options: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the options that were ticked; raises UserError for anything else."""
    if not isinstance(value, list) or not all(isinstance(one, str) and one in options for one in value):
        raise UserError(f"{name} must be some of {', '.join(options)}")
    return tuple(value)
