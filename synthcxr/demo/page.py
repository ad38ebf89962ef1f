"""The demo's page: a prompt in, pictures out. Widgets here, work in `synthcxr.generate`.

What needs torch is imported when a page is built or a model opened, so that importing this module stays quick.
"""

import html
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from synthcxr.conditions import describe, parse_prompt
from synthcxr.errors import RunError, UserError

if TYPE_CHECKING:
    from synthcxr.conditions import Condition
    from synthcxr.generate import Generator, Request
    from synthcxr.model.folder import Model
    from synthcxr.model.sampler import SamplerSettings

MAX_COUNT, MAX_STEPS, MAX_GUIDANCE, MAX_PROMPT = 16, 100, 10, 400
MAX_SEED = 2**53 - MAX_COUNT  # beyond 2^53 a browser's numbers skip some whole ones
CACHE_CHECKED, CACHE_AGE = 600, 3600  # seconds: pictures on disk are looked through, and how old they may become
EXAMPLE = "72 year old female. PA view. Pleural effusion."
NOTE = "# synthcxr\nResearch only. Not for diagnosis."

Pictures = list[tuple[str, str]]  # a PNG's path and its caption


class Studio:
    """The model, opened at the first request, and the flag that stops a drawing. Draws for one request at a time.

    Args:
        model: folder or hub id with its revision; None: the embedded model.
        folder: where pictures are written; a temporary folder is made in it.
    """

    def __init__(self, model: str | None, folder: str | Path):
        self._source, self._lock, self._stop = model, threading.Lock(), threading.Event()
        self._opened: Model | None = None
        self._drawings = 0
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="synthcxr-", dir=folder, ignore_cleanup_errors=True)

    def stop(self) -> None:
        """End the drawing in progress within one sampling step."""
        self._stop.set()

    def draw(self, prompt: Any, seed: Any, count: Any, steps: Any, guidance: Any) -> Iterator[tuple[Pictures, str]]:
        """Pictures so far, and what was understood of the prompt; arguments are as a browser sends them.

        Raises:
            gr.Error: an argument that breaks its rule, or a model that can't be opened; one line for the page.
        """
        from synthcxr.generate import Generator, Request
        from synthcxr.model.sampler import SamplerSettings

        self._stop.clear()
        try:
            condition = _condition(prompt)
            settings = SamplerSettings(
                steps=_whole("steps", steps, 1, MAX_STEPS), guidance=_number("guidance", guidance, 1, MAX_GUIDANCE)
            )
            first, number = _whole("seed", seed, 0, MAX_SEED), _whole("count", count, 1, MAX_COUNT)
            requests = [Request(condition=condition, seed=first + i) for i in range(number)]
            # One picture a batch: each shows as soon as it's drawn, and a step, which Stop waits for, is short.
            generator = Generator(self.model(), settings, batch_size=1)
            said = _said(generator, condition)
            if condition != parse_prompt(prompt):
                said += "\nLeft out: what looks like a name, a date or a number of a record"
            yield from self._pictures(generator, requests, said)
        except UserError as error:
            # The page renders messages as HTML.
            raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None

    def model(self) -> "Model":
        """The model, opened once."""
        from synthcxr.model.folder import load_model

        with self._lock:
            if self._opened is None:
                self._opened = load_model(self._source, "auto")
            return self._opened

    def _pictures(self, generator: "Generator", requests: list["Request"], said: str) -> Iterator[tuple[Pictures, str]]:
        from synthcxr.generate import Stopped, provenance
        from synthcxr.images import write_png

        with self._lock:
            self._drawings += 1
            folder = Path(self._folder.name) / str(self._drawings)
        folder.mkdir()
        pictures: Pictures = []
        yield pictures, said
        try:
            for generated in generator(requests, progress=False, stop=self._stop.is_set):
                seed = generated.request.seed
                # Files, since the gallery would turn pictures in memory into lossy WebP without marks.
                path = folder / f"synthetic-seed-{seed}.png"
                write_png(path, generated.pixels, provenance(generated, generator))
                pictures = [*pictures, (str(path), f"synthetic · seed {seed}")]
                yield pictures, said
        except Stopped:
            yield pictures, f"{said}\nStopped after {len(pictures)} of {len(requests)} pictures."


def _said(generator: "Generator", condition: "Condition") -> str:
    """Lines for the page: what was understood, what the model is told of it, and the words that it never saw."""
    told, unseen = generator.prompt(condition)
    lines = [f"Understood: {describe(condition)}", f"The model is told: {told or 'nothing; it draws any radiograph'}"]
    if unseen:
        lines.append(f"The model never saw: {', '.join(unseen)}")
    return "\n".join(lines)


def _condition(prompt: Any) -> "Condition":
    if not isinstance(prompt, str):
        raise UserError("prompt must be text")
    if len(prompt) > MAX_PROMPT:  # the text box holds only browsers to it
        raise UserError(f"prompt has {len(prompt):,} characters; shorten it to {MAX_PROMPT}")
    from synthcxr.generate import without_identifiers

    return parse_prompt(without_identifiers(prompt))


def _number(name: str, value: Any, low: int, high: int) -> float:
    if value is None or value == "":
        raise UserError(f"{name} is empty; give a number from {low} to {high}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # so is NaN
        raise UserError(f"{name} = {str(value)[:30]} must be a number from {low} to {high}")
    return float(value)


def _whole(name: str, value: Any, low: int, high: int) -> int:
    number = _number(name, value, low, high)
    if not number.is_integer():
        raise UserError(f"{name} = {number:g} must be a whole number")
    return int(number)


def build(model: str | None = None) -> gr.Blocks:
    """The page over one model (None: the embedded one); the model is opened at the first request."""
    from synthcxr.model.folder import EMBEDDED, read_info, resolve
    from synthcxr.model.sampler import USUAL

    info = read_info(resolve(EMBEDDED if model is None else model))
    with gr.Blocks(analytics_enabled=False, title="synthcxr", delete_cache=(CACHE_CHECKED, CACHE_AGE)) as page:
        gr.Markdown(NOTE)
        inputs = _inputs(info.sampler if info else USUAL)
        with gr.Row():
            draw, stop = gr.Button("Generate", variant="primary"), gr.Button("Stop")
        # Plain text: a prompt is shown as it is, never as Markdown.
        said = gr.Textbox(label="What was understood", lines=3, interactive=False)
        gallery = gr.Gallery(label="Synthetic pictures", columns=4, format="png", interactive=False)
        # In gradio's own cache, files are served as they are and are deleted when they are old.
        studio = Studio(model, gallery.GRADIO_CACHE)
        gr.on(
            [draw.click, inputs[0].submit], studio.draw, inputs, [gallery, said], api_name="generate",
            preprocess=False,  # gradio's own checks trip over NaN, and word their errors without the field's name
            show_progress="minimal",
        )  # fmt: skip
        stop.click(studio.stop, None, None, api_name="stop", queue=False)
    return page.queue(max_size=16, default_concurrency_limit=1)


def _inputs(defaults: "SamplerSettings") -> list[gr.components.Component]:
    prompt = gr.Textbox(EXAMPLE, label="Prompt", max_length=MAX_PROMPT)
    with gr.Row():
        seed = gr.Number(0, label="Seed", minimum=0, maximum=MAX_SEED, precision=0)
        count = gr.Slider(1, MAX_COUNT, 4, step=1, label="Count")
        steps = gr.Slider(1, MAX_STEPS, defaults.steps, step=1, label="Steps")
        guidance = gr.Slider(1, MAX_GUIDANCE, defaults.guidance, step=0.5, label="Guidance")
    return [prompt, seed, count, steps, guidance]


def launch(model: str | None = None, port: int = 7860, host: str = "127.0.0.1", block: bool = True) -> gr.Blocks:
    """Serve the page, by default to this machine alone.

    Args:
        host: address to listen on; whoever reaches another than loopback can draw pictures, without a password.
        block: wait until it's interrupted; False returns at once (`close()` ends it).
    Raises:
        RunError: the port is taken.
    """
    page = build(model)
    try:
        page.launch(
            server_name=host, server_port=port, share=False, ssr_mode=False, strict_cors=True, show_error=False,
            allowed_paths=[], max_file_size="1mb", enable_monitoring=False, footer_links=[],
            prevent_thread_lock=not block, quiet=not block,
        )  # fmt: skip
    except OSError as error:
        raise RunError(f"can't listen on {host}, port {port}; give another --port") from error
    return page
