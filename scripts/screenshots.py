"""Pictures of the demo: those of the docs into docs/images/, or with a folder every tab in every size and light.

    python scripts/screenshots.py [FOLDER]

Needs playwright (extra dev) and a Chromium: CHROMIUM names it, else the one on the PATH. Some minutes on a laptop.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from synthcxr.demo import launch

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
PATIENCE = 600_000  # milliseconds
SIZES = {  # of the window, and whether it's dark
    "": (1280, 800, "light"),
    "-dark": (1280, 800, "dark"),
    "-phone": (390, 800, "light"),
    "-phone-dark": (390, 800, "dark"),
}
IN_DOCS = {"generate", "generate-phone-dark", "compare", "dataset", "audit"}


def generate(page: Page) -> None:
    page.click("#generate")
    page.wait_for_selector("#said :text('4 of 4 drawn')", timeout=PATIENCE)
    page.wait_for_selector("#download-dicom")


def compare(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.click("#compare")
    page.wait_for_selector("#compare-said :text('2 of 2 drawn')", timeout=PATIENCE)


def dataset(page: Page) -> None:
    page.get_by_role("tab", name="Dataset").click()
    page.click("#make")
    page.wait_for_selector("#download-dataset:visible", timeout=PATIENCE)


def audit(page: Page) -> None:
    page.get_by_role("tab", name="Audit").click()
    page.click("#audit")
    page.wait_for_selector("#audit-state :text('4 of 4 audited')", timeout=PATIENCE)


def about(page: Page) -> None:
    page.get_by_role("tab", name="About").click()


SHOTS: dict[str, Callable[[Page], None]] = {f.__name__: f for f in (generate, compare, dataset, audit, about)}


def main() -> None:
    everything = len(sys.argv) > 1
    folder = Path(sys.argv[1] if everything else "docs/images")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or sys.exit("no chromium here; set CHROMIUM")
    running = launch(port=7867, block=False)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        context = playwright.chromium.launch_persistent_context(profile, executable_path=chromium, args=FLAGS)
        page = context.pages[0]
        page.set_viewport_size({"width": 1280, "height": 800})
        page.goto("http://127.0.0.1:7867")
        page.wait_for_selector("#generate")
        for name, act in SHOTS.items():
            act(page)
            for suffix, (width, height, scheme) in SIZES.items():
                page.set_viewport_size({"width": width, "height": height})
                page.emulate_media(color_scheme=scheme)
                page.mouse.move(0, 0)
                page.wait_for_timeout(1500)
                if everything or f"{name}{suffix}" in IN_DOCS:
                    page.screenshot(path=folder / f"demo-{name}{suffix}.png", full_page=name != "about")
                if (wide := page.evaluate("document.documentElement.scrollWidth")) > width:
                    print(f"{name}{suffix}: {wide} pixels wide, the window {width}")
            page.set_viewport_size({"width": 1280, "height": 800})
        context.close()
    running.close()


if __name__ == "__main__":
    main()
