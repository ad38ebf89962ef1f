"""The tab Audit: what the screen and the classifier say of the pictures that were just generated."""

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from synthcxr.conditions import Condition, describe
from synthcxr.demo.generate import Drawn, check_there
from synthcxr.demo.inputs import one_line
from synthcxr.demo.studio import Studio, said_html, state_html, waiting_html

if TYPE_CHECKING:
    from synthcxr.model.classifier import Readings
    from synthcxr.synthesis.screen import Verdict
    from synthcxr.synthesis.screen.calibration import Calibration

TAB = "audit"
FAULTS = {
    "broken": "blank, clipped or noise",
    "distribution": "unlike a radiograph",
    "condition": "not as asked",
    "privacy": "too near to a training image",
}
MEANING = """
#### How to read this

- **Nearest training image** is 1 less the best agreement with any training image over small shifts: 0 is a copy, 1 is
  chance. What is near and what isn't, held-out patients decide: real radiographs that the model was not trained on.
- **The classifier** was trained on real radiographs, and errs: how often, the model card says. Percentages are
  its probabilities. *Read as asked* is what most real radiographs with that label would be, too: a weak classifier
  finds much to be as asked. Of what it tells no better than chance, nothing is concluded.
- **The screen** fails a picture that is broken, unlike radiographs, not as asked, or too near to a training image;
  `synthcxr synthesize` draws such a picture again.

A picture that passes is not thereby right or safe: one picture shows no rate. Whether a model copies is a question for
`synthcxr audit`, which compares many pictures with held-out patients and checks itself on planted copies.
"""

Update = tuple[str, str]  # what is going on, and the pictures' cards, as HTML


def audit(studio: Studio, session: str | None, drawn: list[Drawn]) -> Iterator[Update]:
    """What was measured so far, a card a picture.

    Raises:
        gr.Error: no pictures, or a model without a classifier or a calibrated screen.
    """
    from synthcxr.generate import Stopped

    cards = ""
    with one_line():
        check_there(drawn)
    with one_line(), studio.line.job(session, TAB) as job:
        try:
            for before in job.turn():
                yield waiting_html(before), cards
            yield state_html(f"Looking at {len(drawn)}."), cards
            for number, card in enumerate(_cards(studio, drawn), start=1):
                cards += card
                yield state_html(f"{number} of {len(drawn)} audited."), cards
                if job.stopped():
                    raise Stopped
        except Stopped:
            yield state_html("Stopped."), cards


def _cards(studio: Studio, drawn: list[Drawn]) -> Iterator[str]:
    from synthcxr.images import read_image, read_provenance
    from synthcxr.model.classifier import load_classifier
    from synthcxr.synthesis.screen import ScreenConfig, open_screen
    from synthcxr.synthesis.screen.calibration import load_calibration
    from synthcxr.synthesis.screen.privacy import CopyCheck

    classifier, screen = load_classifier(studio.source), open_screen(ScreenConfig(), studio.source)
    calibration, _ = load_calibration(studio.source)
    copies = CopyCheck(calibration.index)
    for one in drawn:
        pixels, marks = read_image(one.png), read_provenance(one.png) or {}
        asked = Condition.model_validate({name: marks[name] for name in Condition.model_fields})
        verdict = screen([pixels], [asked])[0]
        said = [
            ("Asked", describe(asked)),
            ("Classifier reads", reading(classifier.read([pixels]))),
            ("Nearest training image", f"{copies.distance(pixels):.2f} (0 is a copy, 1 is chance)"),
            ("The screen", f"fails it: {FAULTS[verdict.failed]}" if verdict.failed else "lets it pass"),
            ("In plain words", " ".join(meaning(asked, verdict, calibration))),
        ]
        # Relative, so that it's found behind a proxy too.
        source = html.escape(f"gradio_api/file={one.png}")
        name = f"synthetic · seed {one.seed}"
        yield (
            f'<article><figure><img src="{source}" alt="{name}"><figcaption>{name}</figcaption></figure>'
            f"{said_html(said)}</article>"
        )


def meaning(asked: Condition, verdict: "Verdict", calibration: "Calibration") -> list[str]:
    """What was measured of one picture, in sentences for somebody who knows no statistics."""
    p, alpha = verdict.values["p_copy"], calibration.index.alpha
    if p > alpha:
        said = [f"No sign of a copy: {p:.0%} of real pictures of other patients come as near to a training image."]
    else:
        said = [f"Perhaps a copy: at most {p:.1%} of real pictures of other patients come as near to a training image."]
    if verdict.failed == "broken":
        said.append(f"It's {FAULTS['broken']}.")
    if verdict.values["distance"] > calibration.gaussian.limit:
        said.append("To the classifier it doesn't look like a radiograph.")
    right, wrong, untold = compared(asked, verdict, calibration)
    for words, names in (("Read as asked", right), ("Not read as asked", wrong)):
        if names:
            said.append(f"{words}: {', '.join(names)}.")
    if untold:
        said.append(f"What the classifier can't tell: {', '.join(untold)}.")
    return said


def compared(
    asked: Condition, verdict: "Verdict", calibration: "Calibration"
) -> tuple[list[str], list[str], list[str]]:
    """What was asked and is read, what was asked and isn't, and what the classifier is no judge of."""
    from synthcxr.model.classifier import AGE, AP, MALE
    from synthcxr.synthesis.screen.condition import asked as asked_labels

    limits = calibration.limits.condition
    right, wrong, untold = [], [], []
    for label, present in asked_labels(asked):
        name = {MALE: f"{asked.sex}", AP: f"{asked.view} view"}.get(label) or ("" if present else "no ") + label.lower()
        limit = limits.labels.get(label)
        if limit is None or not limit.judged:
            untold.append(name)
            continue
        told = verdict.values[label]
        (right if (told >= limit.least if present else told <= limit.most) else wrong).append(name)
    if asked.age is not None and AGE in verdict.values:
        off = abs(verdict.values[AGE] - limits.age.slope * asked.age - limits.age.intercept)
        (right if off <= limits.age.most else wrong).append(f"{asked.age} years")
    elif asked.age is not None:
        untold.append(f"{asked.age} years")
    untold += [f"{asked.race} race"] if asked.race else []
    untold += ["lateral view"] if asked.view == "LATERAL" else []
    states = asked.findings.items()
    untold += [f"{one.value.lower()}'s side" for one, state in states if state.side]
    untold += [f"{one.value.lower()}'s severity" for one, state in states if state.severity]
    return right, wrong, untold


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
        "what a classifier reads in it, and what that means.",
        elem_classes="lead",
    )
    with gr.Row(elem_classes="actions short"):
        button = gr.Button("Audit what I generated", variant="primary", elem_id="audit", min_width=300)
        stop = gr.Button("Stop", min_width=90)
    state = gr.HTML(state_html("Nothing audited yet."), elem_id="audit-state")
    cards = gr.HTML(elem_id="audited")
    gr.Markdown(MEANING)

    def run(drawn: list[Drawn], request: gr.Request) -> Iterator[Update]:
        yield from audit(studio, request.session_hash, drawn)

    button.click(run, drawn, [state, cards], api_name="audit", show_progress="hidden", **exclusive)
    stop.click(studio.line.stopper(TAB), None, None, api_visibility="private", queue=False)
