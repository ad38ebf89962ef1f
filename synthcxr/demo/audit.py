"""The tab Audit: what the screen and the classifier say of the pictures that were just generated."""

from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from synthcxr.conditions import Condition, describe
from synthcxr.demo.generate import Drawn, check_there
from synthcxr.demo.inputs import one_line
from synthcxr.demo.studio import Studio

if TYPE_CHECKING:
    from synthcxr.model.classifier import Readings

HEADERS = ["seed", "asked", "classifier reads", "nearest training image", "p(copy)", "screen says"]
MEANING = """
#### How to read this

- **Nearest training image** is 1 less the best agreement with any training image over small shifts: 0 is a copy, 1 is
  chance.
- **p(copy)** says how rarely a picture of a patient who was held out lies as near: that of a stranger is below 0.01 one
  time in a hundred.
- **The classifier** was trained on real radiographs, and errs: how often, the model card says.
- **The screen** fails a picture that is blank, unlike radiographs, not as asked, or too near to a training image.

A picture that passes is not thereby right or safe: one picture shows no rate. Whether a model copies is a question for
`synthcxr audit`, which compares many pictures with held-out patients and checks itself on planted copies.
"""


def audit(studio: Studio, drawn: list[Drawn]) -> list[list[str]]:
    """A row a picture, in the order of HEADERS.

    Raises:
        gr.Error: no pictures, or a model without a classifier or a calibrated screen.
    """
    with one_line():
        check_there(drawn)
        from synthcxr.images import read_image, read_provenance
        from synthcxr.model.classifier import load_classifier
        from synthcxr.synthesis.screen import ScreenConfig, open_screen
        from synthcxr.synthesis.screen.calibration import load_calibration
        from synthcxr.synthesis.screen.privacy import CopyCheck

        classifier, screen = load_classifier(studio.source), open_screen(ScreenConfig(), studio.source)
        copies = CopyCheck(load_calibration(studio.source)[0].index)
        rows = []
        for one in drawn:
            pixels, marks = read_image(one.png), read_provenance(one.png) or {}
            asked = Condition.model_validate({name: marks[name] for name in Condition.model_fields})
            verdict = screen([pixels], [asked])[0]
            rows.append([
                str(one.seed), describe(asked), reading(classifier.read([pixels])), f"{copies.distance(pixels):.2f}",
                f"{verdict.values['p_copy']:.3f}", f"fails: {verdict.failed}" if verdict.failed else "passes",
            ])  # fmt: skip
        return rows


def reading(readings: "Readings") -> str:
    """One picture's readings in words: sex, view, age, and the three findings it thinks likeliest."""
    from synthcxr.model.classifier import FINDINGS

    male, ap = float(readings.male[0]), float(readings.ap[0])
    sex = f"male {male:.0%}" if male >= 0.5 else f"female {1 - male:.0%}"
    view = f"AP {ap:.0%}" if ap >= 0.5 else f"PA {1 - ap:.0%}"
    likeliest = np.argsort(-readings.findings[0])[:3]
    findings = [f"{FINDINGS[place].value.lower()} {readings.findings[0, place]:.0%}" for place in likeliest]
    return ", ".join([sex, view, f"{readings.age[0]:.0f} years", *findings])


def audit_tab(studio: Studio, drawn: gr.State, exclusive: dict[str, Any]) -> None:
    """The tab's widgets."""
    gr.Markdown(
        "What the screen measures of the pictures that you generated last: how near each comes to a training image, "
        "and what a classifier reads in it.",
        elem_classes="lead",
    )
    button = gr.Button("Audit the pictures of the tab Generate", variant="primary", elem_id="audit")
    table = gr.Dataframe(
        headers=HEADERS,
        datatype="str",
        interactive=False,
        wrap=True,
        label="Pictures",
        elem_id="audited",
        column_widths=["7%", "24%", "33%", "12%", "10%", "14%"],
    )
    gr.Markdown(MEANING)
    button.click(partial(audit, studio), drawn, table, api_name="audit", show_progress="minimal", **exclusive)
