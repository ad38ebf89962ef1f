"""The tab About: limits, and the model's own card."""

import re

import gradio as gr

from synthcxr.demo.studio import Studio

LIMITS = """
### What this is for, and what it isn't

Every picture here is **synthetic**: no patient was imaged. Pictures are for research on methods, and for teaching how
such models work. They are **not for diagnosis**, not for training a device that diagnoses without testing it on real
patients, and not evidence of what a disease looks like.

- Each file says that it's synthetic: PNG by an IPTC mark and a text chunk, DICOM by SyntheticData (0008,001C).
- Type no real person's data. Names, dates and numbers of records that are recognised are taken out; others aren't.
- Files are deleted from the server after an hour.
"""


def about_tab(studio: Studio) -> None:
    """The tab's text."""
    gr.Markdown(LIMITS)
    gr.Markdown(card_of(studio), elem_classes="card")


def card_of(studio: Studio) -> str:
    """The model card; the list of held-out patients, which is for machines, stays out."""
    folder = studio.model_folder()
    card = folder / "README.md" if folder else None
    if card is None or not card.is_file():
        return f"### Model card\n\nSee the card of `{studio.source}`."
    text = re.sub(r"^---\n.*?\n---\n", "", card.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"^Validation patients: .*$", "", text, flags=re.MULTILINE)
    return re.sub(r"^#(#*) ", r"##\1 ", text, flags=re.MULTILINE)
