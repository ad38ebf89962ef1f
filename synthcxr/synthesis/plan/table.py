"""What a plan asks for, as a table: counts of each attribute's values, and the first rows."""

from collections import Counter
from collections.abc import Iterator, Sequence

from synthcxr.conditions import Condition, to_prompt
from synthcxr.synthesis.plan.permutation import Permutation
from synthcxr.synthesis.plan.rows import Rows

COUNTED = (
    200_000  # rows; of more, as many are looked at, drawn at random: every nth would see some cells of a grid only
)
SHOWN = 5
ATTRIBUTES = ("findings", "sex", "age", "race", "view")


def table(rows: Rows) -> Iterator[str]:
    """The lines of the table. Reading it draws nothing, and memory doesn't grow with the rows."""
    looked: Sequence[int] = range(len(rows))
    if len(rows) > COUNTED:
        looked = sorted(map(Permutation(len(rows), "table"), range(COUNTED)))  # a file of prompts is read in order
    counts: dict[str, Counter[str]] = {name: Counter() for name in ATTRIBUTES}
    prompts = set()
    for number in looked:
        condition = rows.plan.condition(number)
        prompts.add(hash(condition.model_dump_json()))
        for name, value in _values(condition):
            counts[name][value] += 1
    about = "" if len(looked) == len(rows) else f" (of {len(looked):,} rows looked at, drawn at random)"
    yield f"{len(rows):,} rows in {rows.groups:,} groups of {rows.plan.group}"
    yield f"{len(prompts):,} different conditions{about}"
    for name, values in counts.items():
        for value, count in sorted(values.items()):
            yield f"{name:9} {value:44} {count:>12,} {count / len(looked):6.1%}"
    yield ""
    for number in range(min(SHOWN, len(rows))):
        group, place = divmod(number, rows.plan.group)
        row = rows.of_group(group)[place]
        yield f"{row.id}  seed {rows.seed_of(group):<20} {to_prompt(row.condition)}"


def _values(condition: Condition) -> Iterator[tuple[str, str]]:
    said = (f"{state.state} {finding}" for finding, state in condition.findings.items())
    yield "findings", ", ".join(word.removeprefix("present ") for word in said) or "unsaid"
    for name in ("sex", "race", "view"):
        yield name, str(getattr(condition, name) or "unsaid")
    age = condition.age
    yield "age", "unsaid" if age is None else f"{age // 10 * 10} to {age // 10 * 10 + 9}"
