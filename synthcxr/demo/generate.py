"""The tab Generate: a prompt, or pickers, in; pictures out, as PNG, DICOM or ZIP."""

import json
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from synthcxr.conditions import parse_prompt
from synthcxr.demo import inputs
from synthcxr.demo.inputs import condition_of, number, one_line, whole
from synthcxr.demo.pickers import pickers
from synthcxr.demo.studio import Drawn, Studio, said_html, state_html, understood_lines, waiting_html
from synthcxr.errors import UserError

EXAMPLES = [
    "72 year old female. PA view. Pleural effusion.",
    "58 year old male. AP view. Edema. Cardiomegaly.",
    "34 year old female. PA view. No acute findings.",
]
TAB = "generate"
LEFT_OUT = "Left out: what looks like a name, a date or a number of a record."

Pictures = list[tuple[str, str]]  # a PNG's path and its caption
Update = tuple[Pictures, str, list[Drawn]]


def draw(
    studio: Studio, session: str | None, prompt: Any, seed: Any, count: Any, steps: Any, guidance: Any
) -> Iterator[Update]:
    """Pictures so far, what was understood of the prompt, and the files; arguments are as a browser sends them.

    Raises:
        gr.Error: an argument that breaks its rule, or a model that can't be opened; one line for the page.
    """
    from synthcxr.generate import Request, Stopped

    with one_line():
        condition = condition_of(prompt)
        settings = studio.settings(
            whole("steps", steps, 1, inputs.MAX_STEPS), number("guidance", guidance, 1, inputs.MAX_GUIDANCE)
        )
        first, wanted = whole("seed", seed, 0, inputs.MAX_SEED), whole("count", count, 1, inputs.MAX_COUNT)
        requests = [Request(condition=condition, seed=first + i) for i in range(wanted)]
        note = LEFT_OUT if condition != parse_prompt(prompt) else ""
    drawn: list[Drawn] = []
    said = understood_lines(studio, condition)
    with one_line(), studio.line.job(session, TAB) as job:
        try:
            for before in job.turn():
                yield [], said + waiting_html(before), []
            yield [], said + state_html(f"Drawing {wanted}. {note}"), []
            studio.model()
            said = understood_lines(studio, condition)  # what it never saw is known now, wherever it came from
            for picture in studio.draw(requests, settings, job.stopped):
                drawn.append(picture)
                yield captioned(drawn), said + state_html(f"{len(drawn)} of {wanted} drawn. {note}"), list(drawn)
        except Stopped:
            yield captioned(drawn), said + state_html(f"Stopped after {len(drawn)} of {wanted} pictures. {note}"), drawn


def captioned(drawn: list[Drawn]) -> Pictures:
    """What the gallery shows."""
    return [(str(one.png), f"synthetic · seed {one.seed} · {one.prompt or 'no prompt'}") for one in drawn]


def zipped(drawn: list[Drawn]) -> Path:
    """All pictures as PNG and DICOM, and metadata.jsonl with a row a picture, in one file beside them.

    Raises:
        gr.Error: the pictures are gone, as they are after an hour.
    """
    from synthcxr.images import read_provenance

    check_there(drawn)
    path = drawn[0].png.with_name("synthetic-radiographs.zip")
    rows = [{"file_name": one.png.name, **(read_provenance(one.png) or {})} for one in drawn]
    with zipfile.ZipFile(path, "w") as archive:
        for one in drawn:
            archive.write(one.png, one.png.name)
            archive.write(one.dicom, one.dicom.name)
        archive.writestr("metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return path


def check_there(drawn: list[Drawn]) -> None:
    """Raises gr.Error where there are no pictures, or not any more."""
    if not drawn:
        raise gr.Error("no pictures yet; generate some first", print_exception=False)
    if not all(one.png.is_file() and one.dicom.is_file() for one in drawn):
        raise gr.Error("these pictures were deleted after an hour; generate them again", print_exception=False)


def generate_tab(studio: Studio, drawn: gr.State, exclusive: dict[str, Any]) -> None:
    """The tab's widgets.

    Args:
        drawn: the session's latest pictures, which the tab Audit looks at.
        exclusive: arguments of events that use the model, so that one runs at a time.
    """
    with gr.Row(elem_classes="panes"):
        with gr.Column(scale=2, min_width=320):
            prompt = gr.Textbox(
                EXAMPLES[0], label="Prompt", lines=2, max_length=inputs.MAX_PROMPT, elem_id="prompt",
                info="Free text. What it says shows in the fields below, and these write it.",
            )  # fmt: skip
            gr.Examples([[one] for one in EXAMPLES], prompt, label="Examples", api_visibility="private")
            chosen = pickers(EXAMPLES[0])
            settings = sampler_inputs(studio)
            with gr.Row(elem_classes="actions"):
                button = gr.Button("Generate", variant="primary", elem_id="generate")
                stop = gr.Button("Stop", elem_id="stop", min_width=90)
        with gr.Column(scale=3, min_width=320):
            said = gr.HTML(understood_lines(studio, parse_prompt(EXAMPLES[0])), elem_id="said")
            gallery = gallery_of("Synthetic pictures", 2, "pictures")
            with gr.Row(elem_classes="actions", visible=False) as downloads:
                png = gr.DownloadButton("PNG", elem_id="download-png", min_width=90)
                dicom = gr.DownloadButton("DICOM", elem_id="download-dicom", min_width=90)
                archive = gr.DownloadButton("All as ZIP", elem_id="download-zip", min_width=90)
    chosen.follow(prompt)
    quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    prompt.change(partial(_preview, studio), prompt, said, preprocess=False, trigger_mode="always_last", **quiet)

    def run(prompt: Any, seed: Any, count: Any, steps: Any, guidance: Any, request: gr.Request) -> Iterator[Update]:
        yield from draw(studio, request.session_hash, prompt, seed, count, steps, guidance)

    drawing = gr.on(
        [button.click, prompt.submit], run, [prompt, *settings], [gallery, said, drawn], api_name="generate",
        preprocess=False,  # gradio's own checks trip over NaN, and word their errors without the field's name
        show_progress="minimal", show_progress_on=gallery, **exclusive,
    )  # fmt: skip

    def first_files(drawn: list[Drawn]) -> list[Any]:
        if not drawn:
            return [gr.update(visible=False), gr.skip(), gr.skip(), gr.skip()]
        return [*_files(drawn[0]), str(zipped(drawn))]

    drawing.success(first_files, drawn, [downloads, png, dicom, archive], **quiet)

    def selected_files(drawn: list[Drawn], event: gr.SelectData) -> list[Any]:
        check_there(drawn)
        return _files(drawn[event.index])

    gallery.select(selected_files, drawn, [downloads, png, dicom], **quiet)
    stop.click(studio.line.stopper(TAB), None, None, api_name="stop", queue=False)


def _files(one: Drawn) -> list[Any]:
    """The row of downloads, shown, with the buttons of one picture."""
    files = (("PNG", one.png), ("DICOM", one.dicom))
    return [gr.update(visible=True), *(gr.update(label=f"{k}, seed {one.seed}", value=str(path)) for k, path in files)]


def gallery_of(label: str, columns: int, elem_id: str) -> gr.Gallery:
    """A gallery of PNG files, which it shows as they are."""
    return gr.Gallery(
        label=label, columns=columns, height="auto", format="png", interactive=False, object_fit="contain",
        buttons=["fullscreen"], fit_columns=False, elem_id=elem_id, elem_classes="pictures",
    )  # fmt: skip


def sampler_inputs(studio: Studio, count: bool = True) -> list[gr.components.Component]:
    """Seed, count (where asked), steps and guidance."""
    with gr.Row(elem_classes="tight"):
        seed = gr.Number(0, label="Seed", minimum=0, maximum=inputs.MAX_SEED, precision=0, min_width=120)
        number = [gr.Slider(1, inputs.MAX_COUNT, 4, step=1, label="Count", min_width=130, buttons=[])] if count else []
    with gr.Row(elem_classes="tight"):
        steps, guidance = step_inputs(studio)
    return [seed, *number, steps, guidance]


def step_inputs(studio: Studio) -> tuple[gr.Slider, gr.Slider]:
    """Steps and guidance; both say which number of steps is the few-step mode, where the model has one."""
    info = studio.info()
    few = info.few_steps if info else None
    steps = gr.Slider(
        1, inputs.MAX_STEPS, studio.steps, step=1, label="Steps", min_width=130, buttons=[],
        info=f"{few}: its few-step mode" if few else None,
    )  # fmt: skip
    guidance = gr.Slider(
        1, inputs.MAX_GUIDANCE, studio.sampler.guidance, step=0.5, label="Guidance", min_width=130, buttons=[],
        info=f"not in {few} steps" if few else None,
    )  # fmt: skip
    return steps, guidance


def _preview(studio: Studio, prompt: Any) -> str:
    """What would be understood, while it's being typed."""
    try:
        return understood_lines(studio, condition_of(prompt))
    except UserError as error:
        return said_html([("Prompt", str(error))])
