"""Pickers for what a prompt can say, kept in step with the prompt: either may be changed, the other follows."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from synthcxr.conditions import Condition, Finding, FindingState, parse_prompt, to_prompt
from synthcxr.demo.inputs import MAX_PROMPT
from synthcxr.errors import UserError
from synthcxr.vocabulary import RACES, SEVERITIES, SEXES, SIDES, SIZES, VIEWS

ROWS = 3  # findings that have pickers; a prompt may say more
UNSAID = ""  # what a picker gives where nothing is chosen
# Mild and severe, or small and large for what has a size: the same three to a Condition.
SEVERITY_LABELS = [(word if word == SIZES[word] else f"{word}, {SIZES[word]}", word) for word in SEVERITIES]


@dataclass(frozen=True)
class Pickers:
    """The widgets: age, sex, race, view, then finding, side and severity of each row."""

    components: list[gr.components.Component]

    def follow(self, prompt: gr.Textbox) -> None:
        """Let either side follow the other."""
        quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
        prompt.change(values_of, prompt, self.components, preprocess=False, **quiet)
        gr.on(
            [one.input for one in self.components], prompt_of, [prompt, *self.components], prompt,
            preprocess=False, **quiet,
        )  # fmt: skip


def pickers(prompt: str) -> Pickers:
    """Widgets that show what a prompt says: who and which view in a row, then findings."""
    values = iter(values_of(prompt))
    with gr.Group(elem_classes="picks"):
        with gr.Row():
            age = gr.Textbox(next(values), label="Age", placeholder="any", max_length=3, min_width=60)
            sex = _dropdown("Sex", [*SEXES], next(values))
            view = _dropdown("View", [(view if view != "LATERAL" else "lateral", view) for view in VIEWS], next(values))
            race = _dropdown("Race", [*RACES], next(values))
    rows = []
    with gr.Group(elem_classes="picks"):
        for number in range(ROWS):
            with gr.Row(elem_classes="more" if number else ""):  # the first row's labels stand for all to the eye
                rows.append(_dropdown("Finding", [one.value for one in Finding], next(values), scale=5))
                rows.append(_dropdown("Side", [*SIDES], next(values), scale=3))
                rows.append(_dropdown("Severity", SEVERITY_LABELS, next(values), scale=4))
    return Pickers([age, sex, view, race, *rows])


def _dropdown(label: str, choices: list[Any], value: Any, scale: int = 1) -> gr.Dropdown:
    none = ("any" if scale == 1 else "–", UNSAID)
    return gr.Dropdown([none, *choices], value=value, label=label, scale=scale, min_width=60)


def values_of(prompt: Any) -> list[Any]:
    """What the pickers show of a prompt; they stay as they are where it can't be read yet."""
    try:
        condition = parse_prompt(prompt if isinstance(prompt, str) else "") if len(str(prompt)) <= MAX_PROMPT else None
    except UserError:
        condition = None
    if condition is None:
        return [gr.skip()] * (4 + 3 * ROWS)
    age = UNSAID if condition.age is None else str(condition.age)
    values = [age, condition.sex or UNSAID, condition.view or UNSAID, condition.race or UNSAID]
    shown = _shown(condition)
    for finding in [*shown, *[None] * (ROWS - len(shown))]:
        state = condition.findings[finding] if finding else FindingState()
        values += [finding.value if finding else UNSAID, state.side or UNSAID, state.severity or UNSAID]
    return values


def prompt_of(prompt: Any, age: Any, sex: Any, view: Any, race: Any, *rows: Any) -> Any:
    """The prompt that says what the pickers show, and all that the prompt said beside it."""
    try:
        said = parse_prompt(prompt if isinstance(prompt, str) and len(prompt) <= MAX_PROMPT else "")
        shown = _shown(said)
        findings = {finding: state for finding, state in said.findings.items() if finding not in shown}
        for name, side, severity in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
            if name:
                findings[Finding(name)] = _state(Finding(name), side, severity)
        condition = Condition(
            findings=findings, age=str(age).strip() or None, sex=sex or None, view=view or None, race=race or None,
            text=said.text,
        )  # fmt: skip
    except (UserError, ValueError):  # half a number, or what no picker sends
        return gr.skip()
    return to_prompt(condition)


def _state(finding: Finding, side: str, severity: str) -> FindingState:
    if finding is Finding.NO_FINDING:  # takes neither
        return FindingState()
    return FindingState(side=side or None, severity=severity or None)


def _shown(condition: Condition) -> list[Finding]:
    present = [finding for finding, state in condition.findings.items() if state.state == "present"]
    return present[:ROWS]
