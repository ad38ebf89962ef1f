"""The model behind the page, opened at the first request, who may use it, and the files it draws."""

import html
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from synthcxr.conditions import Condition, describe
from synthcxr.demo.turns import Line
from synthcxr.errors import UserError

if TYPE_CHECKING:
    from synthcxr.generate import Request
    from synthcxr.model.folder import Model, ModelInfo
    from synthcxr.model.sampler import SamplerSettings

CACHE_CHECKED, CACHE_AGE = 600, 3600  # seconds: files on disk are looked through, and how old they may become


@dataclass(frozen=True)
class Drawn:
    """One picture on disk, as PNG and DICOM beside each other, and what the model was told."""

    png: Path
    dicom: Path
    prompt: str
    seed: int


class Studio:
    """Draws for whoever's turn it is.

    Attributes:
        line: where requests for the model take their turns.

    Args:
        model: folder or hub id with its revision; None: the embedded model.
        folder: where files are written; a temporary folder, which goes with the page, is made in it.
    """

    def __init__(self, model: str | None, folder: str | Path):
        self.source, self.line, self._lock = model, Line(), threading.Lock()
        self._opened: Model | None = None
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="synthcxr-", dir=folder, ignore_cleanup_errors=True)

    def model(self) -> "Model":
        """The model, opened once."""
        from synthcxr.model.folder import load_model

        with self._lock:
            if self._opened is None:
                self._opened = load_model(self.source, "auto")
            return self._opened

    def info(self) -> "ModelInfo | None":
        """What the model says of itself; None as long as it would have to be fetched or opened for that."""
        from synthcxr.model.folder import read_info

        if self._opened is not None:
            return self._opened.info
        folder = self.model_folder()
        try:
            return read_info(folder) if folder else None
        except UserError:
            return None

    @property
    def sampler(self) -> "SamplerSettings":
        """How the model is drawn from by default, as far as that is known before it's opened."""
        from synthcxr.model.sampler import USUAL

        info = self.info()
        return info.sampler if info else USUAL

    @property
    def steps(self) -> int:
        """In how many steps the model is drawn from by default."""
        info = self.info()
        return info.few_steps if info and info.quick else self.sampler.steps

    def settings(self, steps: int, guidance: float) -> "SamplerSettings":
        """The few-step mode of a model that has one, where that many steps are asked; else so many guided steps."""
        from synthcxr.model.sampler import SamplerSettings

        info = self.info()
        if info and steps == info.few_steps:
            return SamplerSettings(sampler="few-step")
        return SamplerSettings(steps=steps, guidance=guidance)

    def model_folder(self) -> Path | None:
        """Where the model's files are; None for a hub id."""
        from synthcxr.model.folder import EMBEDDED

        folder = EMBEDDED if self.source is None else Path(self.source)
        return folder if folder.is_dir() else None

    def draw(
        self, requests: Sequence["Request"], settings: "SamplerSettings", stop: Callable[[], bool]
    ) -> Iterator[Drawn]:
        """Draw each picture and yield it as soon as it's on disk.

        Args:
            stop: asked at each step of the sampler.
        Raises:
            Stopped: `stop` was true.
            UserError: the model can't be opened.
        """
        from synthcxr.dicom.write import DicomSettings
        from synthcxr.generate import Generator
        from synthcxr.generate_run import provenance, save_dicom
        from synthcxr.images import write_png

        # One picture a batch: each shows as soon as it's drawn, and a step, which Stop waits for, is short.
        generator = Generator(self.model(), settings, batch_size=1)
        folder = self.new_folder()
        for place, generated in enumerate(generator(requests, progress=False, stop=stop)):
            seed = generated.request.seed
            # Files, since the gallery would turn pictures in memory into lossy WebP without marks.
            path = folder / f"synthetic-{place:02d}-seed-{seed}.png"
            write_png(path, generated.pixels, provenance(generated, generator))
            dicom = path.with_suffix(".dcm")
            save_dicom(dicom, generated, generated.prompt, generator, DicomSettings())
            yield Drawn(path, dicom, generated.prompt, seed)

    def new_folder(self) -> Path:
        """A fresh folder for files, whose name nobody guesses; those that are too old go first, whoever forgot them."""
        root = Path(self._folder.name)
        folder = root / secrets.token_hex(8)  # who knows the path of a file is served it
        for old in root.iterdir():
            if time.time() - old.stat().st_mtime > CACHE_AGE:
                shutil.rmtree(old, ignore_errors=True)
        folder.mkdir()
        return folder


def understood_lines(studio: Studio, condition: Condition) -> str:
    """HTML for the page: what was understood, what the model is told of it, and the words that it never saw."""
    rows = [("Understood", describe(condition))]
    if info := studio.info():
        from synthcxr.conditions import to_prompt
        from synthcxr.model.prompts import rare, understood

        kept, missing = understood(condition, info.template, info.words)
        told = to_prompt(kept, info.template)
        rows.append(("The model is told", told or "nothing; it draws any radiograph"))
        if missing:
            rows.append(("The model never saw", ", ".join(missing)))
        if few := rare(kept, info.findings):
            named = [f"{finding.value.lower()}: {count} training images" for finding, count in few.items()]
            rows.append(("It hardly knows", ", ".join(named)))
    return said_html(rows)


def said_html(rows: Sequence[tuple[str, str]]) -> str:
    """Label and text a row, as they are: nothing a user wrote is markup."""
    body = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in rows)
    return f'<dl class="said">{body}</dl>'


def table_html(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, as they are; nothing where there are no rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in headers)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="rows"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def state_html(text: str) -> str:
    """What is going on, which screen readers are told too."""
    return f'<p class="state" role="status">{html.escape(text.strip())}</p>'


def waiting_html(before: int) -> str:
    """That a job waits for its turn."""
    return state_html(f"Waiting for {before} other request{'s' if before > 1 else ''}. Stop takes yours back.")
