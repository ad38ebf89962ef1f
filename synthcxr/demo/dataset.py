"""The tab Dataset: a small `synthcxr synthesize`, in a process of its own, that can be cancelled at any moment."""

import atexit
import json
import logging
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from synthcxr.demo import inputs
from synthcxr.demo.generate import Pictures, gallery_of, step_inputs
from synthcxr.demo.inputs import chosen, number, one_line, whole
from synthcxr.demo.studio import Studio, state_html, table_html, waiting_html
from synthcxr.demo.turns import Job
from synthcxr.errors import RunError
from synthcxr.vocabulary import SEXES, Finding

log = logging.getLogger(__name__)

TAB = "dataset"
FINDINGS = tuple(finding.value for finding in Finding)
VIEWS = ("PA", "AP")
HEADERS = ["row", "prompt", "seed", "attempts"]
SHARD_ROWS = 4  # pictures between two reports of progress
SHOWN = 12
WAIT = 0.3  # seconds between two looks at the job

Update = tuple[str, str, Pictures, Any]  # state and table as HTML, gallery, download


def job_config(
    studio: Studio, rows: Any, findings: Any, sexes: Any, views: Any, seed: Any, steps: Any, guidance: Any,
    screened: Any,
) -> dict[str, Any]:  # fmt: skip
    """The config of `synthcxr synthesize`, as its YAML file holds it, but for the output.

    Raises:
        UserError: an argument that breaks its rule.
    """
    import torch

    plan = {
        "kind": "balanced", "rows": whole("rows", rows, 1, inputs.MAX_ROWS), "age": [[20, 49], [50, 90]],
        "findings": list(chosen("findings", findings, FINDINGS)) or [Finding.NO_FINDING.value],
        "sex": list(chosen("sex", sexes, SEXES)), "view": list(chosen("view", views, VIEWS)),
    }  # fmt: skip
    settings = studio.settings(
        whole("steps", steps, 1, inputs.MAX_STEPS), number("guidance", guidance, 1, inputs.MAX_GUIDANCE)
    )
    config = {
        "plan": plan, "seed": whole("seed", seed, 0, inputs.MAX_SEED),
        "settings": settings.model_dump(mode="json", exclude_none=True),
        "batch_size": SHARD_ROWS, "shard_rows": SHARD_ROWS, "threads": torch.get_num_threads(),
        "engine": {"workers": 1},
    }  # fmt: skip
    if screened is not True:
        config["screen"] = None
    if studio.source is not None:
        config |= {"model": studio.source, "licence": "that of the model"}
    return config


def make_dataset(studio: Studio, session: str | None, *arguments: Any) -> Iterator[Update]:
    """State, table and pictures so far, at the end with the ZIP's path; arguments are as a browser sends them.

    Raises:
        gr.Error: an argument that breaks its rule, or a job that failed, with its one line.
    """
    from synthcxr.generate import Stopped

    with one_line():
        config = job_config(studio, *arguments)
    wanted, done, hidden = config["plan"]["rows"], 0, gr.update(visible=False)
    with one_line(), studio.line.job(session, TAB) as job:
        try:
            for before in job.turn():
                yield waiting_html(before), "", [], hidden
            yield state_html(f"Opening the model for {wanted} pictures."), "", [], hidden
            folder = studio.new_folder()
            for done in _progress(folder, config | {"output": str(folder / "dataset")}, job):
                yield state_html(f"{done} of {wanted} rows done."), gr.skip(), gr.skip(), gr.skip()
            yield _finished(folder)
        except Stopped:
            yield state_html(f"Cancelled after {done} of {wanted}."), "", [], hidden


def _progress(folder: Path, config: dict[str, Any], job: Job) -> Iterator[int]:
    """Run the command, and yield how many rows are done as long as it runs.

    Raises:
        Stopped: the job was withdrawn; its process has ended.
        RunError: the command ended with a mistake, which this names.
    """
    from synthcxr.generate import Stopped

    file = folder / "job.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    with _process(file) as process:
        while process.poll() is None:
            if job.stopped():
                raise Stopped
            yield _rows_done(folder / "dataset.run" / "log.jsonl")
            time.sleep(WAIT)
        if process.returncode:
            raise RunError(_last_line(folder / "log"))


@contextmanager
def _process(job: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command line's own process; it ends with the drawing, also where the browser has gone."""
    command = [sys.executable, "-m", "synthcxr.cli", "synthesize", str(job), "--json"]
    with open(job.with_name("log"), "wb") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, stdin=subprocess.DEVNULL)
    atexit.register(process.kill)  # and with the server, whose threads end without a word
    try:
        yield process
    finally:
        atexit.unregister(process.kill)
        if process.poll() is None:
            process.kill()
        process.wait()


def _rows_done(file: Path) -> int:
    if not file.is_file():
        return 0
    events = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return sum(event["images"] + event["given_up"] for event in events if event["event"] == "shard")


def _last_line(file: Path) -> str:
    """What the command said before it ended: `error: ...` for a mistake."""
    lines = [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if not errors:
        log.error("a job of the tab Dataset ended: %s", "\n".join(lines[-20:]))
    return errors[-1] if errors else "the job ended unexpectedly; the server's log says more"


def _finished(folder: Path) -> Update:
    from synthcxr.data.dataset import Dataset

    dataset = Dataset.open(folder / "dataset")
    rows, pictures = [], []
    for record in sorted(dataset.records, key=lambda record: record.id):
        number = int(record.id.rpartition("-")[2])
        attempts = json.loads(record.screen)["attempt"] + 1 if record.screen else 1
        rows.append([str(number), record.prompt or "", str(record.seed), str(attempts)])
        if len(pictures) < SHOWN:
            path = folder / f"synthetic-{record.id}.png"
            path.write_bytes(dataset.read_bytes(record))
            pictures.append((str(path), f"synthetic · row {number}"))
    archive = folder / "synthetic-dataset.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(dataset.path.rglob("*")):
            file.write(path, path.relative_to(folder))
    result = dataset.info["result"]
    state = f"{result['images']} of {result['planned']} rows, {result['drawn']} pictures drawn. "
    if result["images"] < result["planned"]:
        state += "The others were given up: no attempt passed the screen."
    return state_html(state), table_html(HEADERS, rows), pictures, gr.update(value=str(archive), visible=True)


def dataset_tab(studio: Studio, exclusive: dict[str, Any]) -> None:
    """The tab's widgets."""
    gr.Markdown(
        "A small labelled DATASET: every combination as often as any other, each picture screened, all marked as "
        "synthetic. The same as `synthcxr synthesize`, which has no limit of size.",
        elem_classes="lead",
    )
    with gr.Row(elem_classes="panes"):
        with gr.Column(scale=2, min_width=320):
            findings = gr.Dropdown(
                list(FINDINGS), value=["No Finding", "Cardiomegaly"], multiselect=True, label="Findings", max_choices=8
            )
            with gr.Row(elem_classes="tight"):
                sexes = gr.CheckboxGroup(list(SEXES), value=list(SEXES), label="Sex", min_width=140)
                views = gr.CheckboxGroup(list(VIEWS), value=["PA"], label="View", min_width=140)
            with gr.Row(elem_classes="tight"):
                rows = gr.Slider(1, inputs.MAX_ROWS, 8, step=1, label="Rows", min_width=130, buttons=[])
                seed = gr.Number(0, label="Seed", minimum=0, maximum=inputs.MAX_SEED, precision=0, min_width=120)
            with gr.Row(elem_classes="tight"):
                steps, guidance = step_inputs(studio)
            screened = gr.Checkbox(
                True, label="Screen each picture", info="whole, like a radiograph, as asked, nobody's copy"
            )
            with gr.Row(elem_classes="actions"):
                button = gr.Button("Make it", variant="primary", elem_id="make")
                stop = gr.Button("Cancel", elem_id="cancel", min_width=90)
        with gr.Column(scale=3, min_width=320):
            state = gr.HTML(state_html("Nothing made yet."), elem_id="dataset-state")
            archive = gr.DownloadButton("The dataset as ZIP", visible=False, elem_id="download-dataset")
            pictures = gallery_of(f"The first {SHOWN}", 4, "made")
            table = gr.HTML(elem_id="rows")

    def run(
        rows: Any, findings: Any, sexes: Any, views: Any, seed: Any, steps: Any, guidance: Any, screened: Any,
        request: gr.Request,
    ) -> Iterator[Update]:  # fmt: skip
        asked = (rows, findings, sexes, views, seed, steps, guidance, screened)
        yield from make_dataset(studio, request.session_hash, *asked)

    given = [rows, findings, sexes, views, seed, steps, guidance, screened]
    button.click(
        run,
        given,
        [state, table, pictures, archive],
        api_name="dataset",
        preprocess=False,
        show_progress="hidden",
        **exclusive,
    )
    stop.click(studio.line.stopper(TAB), None, None, api_visibility="private", queue=False)
