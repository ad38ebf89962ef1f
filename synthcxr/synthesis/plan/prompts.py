"""The `prompts` plan: a CSV or JSONL file with a prompt, or the parts of a condition, a line."""

import csv
import json
import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import Field, ValidationError

from synthcxr.conditions import Condition, parse_prompt
from synthcxr.config import Config, explain
from synthcxr.errors import ConditionError, UserError, shown
from synthcxr.reports import anonymous

log = logging.getLogger(__name__)

COLUMNS = ("age", "sex", "race", "view", "findings")
STRIDE = 256  # lines between two places of the file that are kept in memory


class PromptsPlan(Config):
    """The prompts of a file, in its order.

    A line has `prompt`, or some of age, sex, race, view and findings (in CSV separated by |); other columns are let be.
    What names people, days and records in a prompt is taken out before anything is drawn or written.
    """

    kind: Literal["prompts"]
    file: Path = Field(description=".csv with a header, or .jsonl; UTF-8")
    each: int = Field(1, ge=1, description="rows a prompt, each with a seed of its own")
    file_hash: str | None = Field(None, description="refuse a file whose sha256 is another")


class Prompts:
    """Reads a row where it stands: all that is held is where every 256th line begins.

    Raises:
        ConditionError: a line that can't be understood (file, row, rule); all are read once before any is drawn.
    """

    group, contrasts = 1, ()

    def __init__(self, config: PromptsPlan, check: bool = True) -> None:
        self._path, self._each = config.file, config.each
        self._csv = config.file.suffix.lower() == ".csv"
        if config.file.suffix.lower() not in (".csv", ".jsonl"):
            raise ConditionError(f"{shown(config.file)}: must be a .csv or .jsonl file")
        self._places: list[int] = []
        self._header: list[str] = []
        self._scrubbed = 0
        count = 0
        with self._opened() as file:
            if self._csv:
                self._header = next(csv.reader([_record(file, True).decode("utf-8-sig")]), [])
            place = file.tell()
            for number, data in enumerate(self._records(file)):
                if number % STRIDE == 0:
                    self._places.append(place)
                if check:
                    self._understood(data, number)
                place, count = file.tell(), number + 1
        if self._scrubbed:
            where = f"{self._scrubbed} of {count} prompts of {shown(self._path)}"
            log.warning("names, dates or numbers of records were taken out of %s", where)
        if not count:
            raise ConditionError(f"{shown(config.file)}: has no prompt; give a line for each")
        self.rows = count * config.each
        self._near: tuple[int, list[bytes]] = (-1, [])

    def condition(self, number: int) -> Condition:
        """What row `number` is to show."""
        line = number // self._each
        stretch, place = divmod(line, STRIDE)
        if self._near[0] != stretch:
            with self._opened() as file:
                file.seek(self._places[stretch])
                self._near = (stretch, list(islice(self._records(file), STRIDE)))
        return self._understood(self._near[1][place], line)

    def _opened(self) -> IO[bytes]:
        try:
            return open(self._path, "rb")
        except OSError as error:
            raise ConditionError(f"{shown(self._path)}: can't be read ({error.strerror}); give a file") from None

    def _records(self, file: IO[bytes]) -> Iterator[bytes]:
        """Each line that isn't blank; in CSV a line goes on while a quote is open (RFC 4180)."""
        while data := _record(file, self._csv):
            if data.strip():
                yield data

    def _understood(self, data: bytes, number: int) -> Condition:
        try:
            fields = self._fields(data.decode("utf-8"))
            if isinstance(prompt := fields.get("prompt"), str) and (kept := anonymous(prompt)) != prompt:
                self._scrubbed += 1
                fields = {**fields, "prompt": kept}
            return _condition(fields)
        except ValidationError as error:
            problem = explain(error, Condition, {})
        except (UserError, ValueError) as error:
            problem = str(error)
        raise ConditionError(f"{shown(self._path)} row {number + 1}: {problem}")

    def _fields(self, text: str) -> dict[str, Any]:
        if not self._csv:
            fields = json.loads(text)
            if not isinstance(fields, dict):
                raise ConditionError("must be a JSON object")
            return fields
        fields = dict(zip(self._header, next(csv.reader(text.splitlines(keepends=True))), strict=False))
        given = {name: value for name, value in fields.items() if value.strip()}
        if "findings" in given:
            given["findings"] = [name.strip() for name in given["findings"].split("|")]
        return given


def _condition(fields: dict[str, Any]) -> Condition:
    if prompt := fields.get("prompt"):
        if not isinstance(prompt, str):
            raise ConditionError(f"prompt = {prompt!r} must be text")
        return parse_prompt(prompt)
    known = {name: fields[name] for name in COLUMNS if fields.get(name) is not None}
    if not known:
        raise ConditionError(f"must have a prompt, or some of {', '.join(COLUMNS)}")
    return Condition(**known)


def _record(file: IO[bytes], quoted: bool) -> bytes:
    data = file.readline()
    while quoted and data.count(b'"') % 2:
        more = file.readline()
        if not more:
            break
        data += more
    return data
