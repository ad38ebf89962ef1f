"""The tab Compare: the same seed, one attribute changed."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np

from synthcxr.conditions import Condition, Finding, FindingState
from synthcxr.demo import inputs
from synthcxr.demo.generate import Pictures, gallery_of, sampler_inputs
from synthcxr.demo.inputs import chosen, condition_of, number, one_line, whole
from synthcxr.demo.studio import Drawn, Studio, said_html, state_html, waiting_html
from synthcxr.vocabulary import RACES

TAB = "compare"
PROMPT = "60 year old female. PA view. No acute findings."
FIELDS: dict[str, tuple[Any, ...]] = {
    "Sex": ("female", "male"),
    "View": ("PA", "AP", "LATERAL"),
    "Age": (30, 45, 60, 75, 90),
    "Race": RACES,
}
ATTRIBUTES = (*FIELDS, *(finding.value for finding in Finding if finding is not Finding.NO_FINDING))

Update = tuple[Pictures, Pictures, str]


def variants(condition: Condition, attribute: str) -> list[tuple[str, Condition]]:
    """The condition with each value of one attribute, and the name of the value; a finding is left out, then there."""
    if attribute in FIELDS:
        name = attribute.lower()
        return [(str(value), condition.model_copy(update={name: value})) for value in FIELDS[attribute]]
    finding = Finding(attribute)
    without = {one: state for one, state in condition.findings.items() if one not in (finding, Finding.NO_FINDING)}
    plain = without or {Finding.NO_FINDING: FindingState()}
    named = Condition(findings={**without, finding: FindingState()}).findings
    return [
        (f"no {attribute.lower()}", condition.model_copy(update={"findings": plain})),
        (attribute.lower(), condition.model_copy(update={"findings": named})),
    ]


def difference(first: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, float]:
    """Signed difference of two uint8 pictures as uint8, mid grey where they agree; and its mean size, 0 to 255."""
    change = other.astype(np.float64) - first.astype(np.float64)
    return np.clip(np.rint(128 + change), 0, 255).astype(np.uint8), float(np.abs(change).mean())


def compare(
    studio: Studio, session: str | None, prompt: Any, attribute: Any, seed: Any, steps: Any, guidance: Any
) -> Iterator[Update]:
    """Pictures and differences to the first so far, and what was told; arguments are as a browser sends them.

    Raises:
        gr.Error: an argument that breaks its rule, or a model that can't be opened.
    """
    from synthcxr.generate import Request, Stopped

    with one_line():
        name = chosen("attribute", [attribute], ATTRIBUTES)[0]
        asked = variants(condition_of(prompt), name)
        settings = studio.settings(
            whole("steps", steps, 1, inputs.MAX_STEPS), number("guidance", guidance, 1, inputs.MAX_GUIDANCE)
        )
        requests = [Request(condition=one, seed=whole("seed", seed, 0, inputs.MAX_SEED)) for _, one in asked]
    drawn: list[Drawn] = []
    pictures: Pictures = []
    with one_line(), studio.line.job(session, TAB) as job:
        try:
            for before in job.turn():
                yield [], [], waiting_html(before)
            yield [], [], state_html(f"Drawing {len(asked)}.")
            for (label, _), picture in zip(asked, studio.draw(requests, settings, job.stopped), strict=False):
                drawn.append(picture)
                pictures.append((str(picture.png), f"synthetic · {label} · seed {picture.seed}"))
                yield (
                    list(pictures),
                    _differences(drawn, asked),
                    _told(drawn, asked, f"{len(drawn)} of {len(asked)} drawn."),
                )
        except Stopped:
            yield (
                pictures,
                _differences(drawn, asked),
                _told(drawn, asked, f"Stopped after {len(drawn)} of {len(asked)}."),
            )


def _differences(drawn: list[Drawn], asked: list[tuple[str, Condition]]) -> Pictures:
    """The first picture, then each other less the first, as files marked like the pictures."""
    from synthcxr.images import read_image, read_provenance, write_png

    if not drawn:
        return []
    shown = [(str(drawn[0].png), f"synthetic · {asked[0][0]} · the first")]
    for (label, _), one in zip(asked[1:], drawn[1:], strict=False):
        pixels, mean = difference(read_image(drawn[0].png), read_image(one.png))
        path = one.png.with_name(f"{one.png.stem}-difference.png")
        if not path.exists():
            write_png(path, pixels, {**(read_provenance(one.png) or {}), "difference_to": asked[0][0]})
        shown.append((str(path), f"synthetic · {label} less {asked[0][0]} · mean {mean:.1f} of 255"))
    return shown


def _told(drawn: list[Drawn], asked: list[tuple[str, Condition]], state: str) -> str:
    rows = [(label, one.prompt or "nothing") for (label, _), one in zip(asked, drawn, strict=False)]
    alike = len(drawn) > 1 and len({one.prompt for one in drawn}) < len(drawn)
    note = " The model has no words for some of these values: it was told the same, and drew the same." if alike else ""
    return said_html(rows) + state_html(state + note)


def compare_tab(studio: Studio, exclusive: dict[str, Any]) -> None:
    """The tab's widgets."""
    gr.Markdown(
        "One seed, one attribute changed; and below each picture what changed against the first: mid grey is no "
        "change, bright became denser, dark more air.",
        elem_classes="lead",
    )
    with gr.Row(elem_classes="panes"):
        with gr.Column(min_width=320):
            prompt = gr.Textbox(PROMPT, label="Prompt", lines=2, max_length=inputs.MAX_PROMPT)
            attribute = gr.Dropdown(list(ATTRIBUTES), value="Sex", label="Attribute that changes", elem_id="attribute")
        with gr.Column(min_width=320):
            settings = sampler_inputs(studio, count=False)
            with gr.Row(elem_classes="actions"):
                button = gr.Button("Compare", variant="primary", elem_id="compare")
                stop = gr.Button("Stop", min_width=90, elem_id="stop-comparing")
    said = gr.HTML(state_html("Nothing compared yet."), elem_id="compare-said")
    pictures = gallery_of("Synthetic pictures", 5, "compared")
    changes = gallery_of("Change against the first", 5, "changes")

    def run(prompt: Any, attribute: Any, seed: Any, steps: Any, guidance: Any, request: gr.Request) -> Iterator[Update]:
        yield from compare(studio, request.session_hash, prompt, attribute, seed, steps, guidance)

    gr.on(
        [button.click, prompt.submit], run, [prompt, attribute, *settings], [pictures, changes, said],
        api_name="compare", preprocess=False, show_progress="minimal", show_progress_on=pictures, **exclusive,
    )  # fmt: skip
    stop.click(studio.line.stopper(TAB), None, None, api_visibility="private", queue=False)
