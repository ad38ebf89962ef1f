"""Pictures of the demo for the docs, and for whoever changes how it looks: python scripts/screenshots.py [FOLDER]

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
SIZES = {
    "": (1280, 800, "light"),
    "-dark": (1280, 800, "dark"),
    "-phone": (390, 800, "light"),
    "-phone-dark": (390, 800, "dark"),
}


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
    page.wait_for_selector("#audited td:has-text('p')", timeout=PATIENCE)


def about(page: Page) -> None:
    page.get_by_role("tab", name="About").click()


SHOTS: dict[str, Callable[[Page], None]] = {f.__name__: f for f in (generate, compare, dataset, audit, about)}


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or sys.exit("no chromium here; set CHROMIUM")
    running = launch(port=7867, block=False)
    with sync_playwright() as playwright:
        for suffix, (width, height, scheme) in SIZES.items():
            with tempfile.TemporaryDirectory() as profile:
                context = playwright.chromium.launch_persistent_context(
                    profile, executable_path=chromium, args=FLAGS, color_scheme=scheme,
                    viewport={"width": width, "height": height},
                )  # fmt: skip
                page = context.pages[0]
                page.goto("http://127.0.0.1:7867")
                page.wait_for_selector("#generate")
                for name, act in SHOTS.items():
                    if suffix and name not in ("generate", "compare") and len(sys.argv) < 3:
                        continue
                    act(page)
                    page.wait_for_timeout(1500)
                    page.mouse.move(0, 0)
                    page.screenshot(path=folder / f"demo-{name}{suffix}.png", full_page=name != "about")
                    wide = page.evaluate("document.documentElement.scrollWidth")
                    if wide > width:
                        print(f"{name}{suffix}: {wide} pixels wide, the window {width}")
                context.close()
    running.close()


if __name__ == "__main__":
    main()
