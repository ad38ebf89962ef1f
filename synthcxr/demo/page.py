"""The demo's page: a prompt in, pictures out. Widgets here, work in `synthcxr.generate`."""

import json
import math
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from synthcxr.conditions import describe, parse_prompt
from synthcxr.errors import UserError
from synthcxr.generate import Generator, Request, SamplerSettings, Stopped, provenance
from synthcxr.images import write_png
from synthcxr.model.folder import load_model

MAX_COUNT, MAX_STEPS, MAX_PROMPT = 16, 100, 400
EXAMPLE = "72 year old female. PA view. Pleural effusion."
NOTE = "Every picture here is **synthetic**. Research only, not for diagnosis."


class Studio:
    """The model, loaded once at the first request, and the flag that stops a drawing."""

    def __init__(self, model: str | None):
        self.source, self._model = model, None
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._folder = tempfile.TemporaryDirectory(prefix="synthcxr-demo-")
        self._drawings = 0

    def stop(self) -> None:
        """End the drawing in progress within one sampling step."""
        self._stop.set()

    def draw(
        self, prompt: str, seed: float, count: float, steps: float, guidance: float
    ) -> Iterator[tuple[list[tuple[str, str]], str]]:
        """Pictures so far as (PNG path, caption), and what was understood of the prompt.

        Raises:
            gr.Error: an input that breaks its rule, or a model that can't be loaded; in words.
        """
        try:
            seed, count, steps = (
                _whole(name, value, low, high)
                for name, value, low, high in (
                    ("seed", seed, 0, 2**53), ("count", count, 1, MAX_COUNT), ("steps", steps, 1, MAX_STEPS)
                )
            )  # fmt: skip
            if not (math.isfinite(guidance or math.nan) and 1 <= guidance <= 10):
                raise UserError(f"guidance = {guidance} must be from 1 to 10")
            if len(prompt) > MAX_PROMPT:
                raise UserError(f"prompt has {len(prompt)} characters; at most {MAX_PROMPT}")
            condition = parse_prompt(prompt)
            with self._lock:
                self._model = self._model or load_model(self.source)
            generator = Generator(self._model, SamplerSettings(steps=steps, guidance=guidance), batch_size=1)
            self._stop.clear()
            told, unseen = generator.prompt(condition)
            said = f"Understood: {describe(condition)}. The model is told: “{told}”"
            if unseen:
                said += f" It never saw: {', '.join(unseen)}."
            yield from self._pictures(
                generator, [Request(condition=condition, seed=seed + i) for i in range(count)], said
            )
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def _pictures(
        self, generator: Generator, requests: list[Request], said: str
    ) -> Iterator[tuple[list[tuple[str, str]], str]]:
        pictures: list[tuple[str, str]] = []
        yield pictures, said
        with self._lock:
            self._drawings += 1
            drawing = self._drawings
        try:
            for generated in generator(requests, progress=False, stop=self._stop.is_set):
                seed = generated.request.seed
                # Paths, since the gallery would turn pictures in memory into lossy WebP.
                path = Path(self._folder.name) / f"synthetic-{drawing}-seed-{seed}.png"
                write_png(path, generated.pixels, provenance(generated, generator))
                pictures = [*pictures, (str(path), f"synthetic · seed {seed}")]
                yield pictures, said
        except Stopped:
            yield pictures, f"{said} Stopped after {len(pictures)} of {len(requests)}."


def _whole(name: str, value: float | None, low: int, high: int) -> int:
    if value is None or not math.isfinite(value) or value != int(value) or not low <= value <= high:
        raise UserError(f"{name} = {json.dumps(value)} must be a whole number from {low} to {high}")
    return int(value)


def build(model: str | None = None) -> gr.Blocks:
    """The page over one model (None: embedded); nothing is loaded until the first request."""
    studio = Studio(model)
    with gr.Blocks(analytics_enabled=False, title="synthcxr", delete_cache=(600, 3600)) as page:
        gr.Markdown(f"# synthcxr\n{NOTE}")
        prompt = gr.Textbox(EXAMPLE, label="Prompt", max_length=MAX_PROMPT, lines=2)
        with gr.Row():
            seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            count = gr.Slider(1, MAX_COUNT, 4, step=1, label="Count")
            steps = gr.Slider(1, MAX_STEPS, SamplerSettings().steps, step=1, label="Steps")
            guidance = gr.Slider(1, 10, SamplerSettings().guidance, step=0.5, label="Guidance")
        with gr.Row():
            draw, stop = gr.Button("Generate", variant="primary"), gr.Button("Stop")
        said = gr.Markdown()
        gallery = gr.Gallery(
            label="Synthetic pictures", columns=4, format="png", interactive=False, object_fit="contain"
        )
        inputs, outputs = [prompt, seed, count, steps, guidance], [gallery, said]
        gr.on([draw.click, prompt.submit], studio.draw, inputs, outputs, api_name="generate")
        stop.click(studio.stop, None, None, api_name="stop", queue=False)
    return page.queue(max_size=16, default_concurrency_limit=1)


def launch(model: str | None = None, port: int = 7860, block: bool = True) -> gr.Blocks:
    """Serve the page on the loopback address.

    Args:
        block: wait until it's interrupted; False returns at once (`close()` ends it).
    """
    page = build(model)
    page.launch(
        server_name="127.0.0.1", server_port=port, share=False, ssr_mode=False, strict_cors=True, show_error=False,
        allowed_paths=[], max_file_size="1mb", prevent_thread_lock=not block, quiet=not block, footer_links=[],
    )  # fmt: skip
    return page
