"""The demo in a real browser: headless Chromium, where there is one (CHROMIUM, else that on the PATH)."""

import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: the demo isn't tried in a browser")

from synthcxr.demo import launch  # noqa: E402
from synthcxr.demo.studio import Studio  # noqa: E402
from synthcxr.demo.turns import WAITING  # noqa: E402
from synthcxr.dicom.read import read_dicom  # noqa: E402
from synthcxr.images import read_image, read_provenance  # noqa: E402

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
PATIENCE = 180_000  # milliseconds; a busy machine is no failure

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: the demo isn't tried in a browser")


@pytest.fixture(scope="module")
def address(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, socket.socket() as probe:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        page = launch(str(tiny_model), port, block=False)
        yield f"http://127.0.0.1:{port}"
        page.close()


@pytest.fixture(scope="module")
def context() -> Iterator["playwright.BrowserContext"]:
    with playwright.sync_playwright() as driver, tempfile.TemporaryDirectory() as profile:
        context = driver.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=FLAGS, accept_downloads=True,
            viewport={"width": 1280, "height": 900},
        )  # fmt: skip
        context.set_default_timeout(PATIENCE)
        yield context
        context.close()


@pytest.fixture
def page(context: "playwright.BrowserContext", address: str) -> Iterator["playwright.Page"]:
    """A fresh page; a script error, or a request to another machine, fails the test."""
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith((address, "data:", "blob:")) or wrong.append(asked.url))
    page.goto(address)
    page.wait_for_selector("#generate")
    yield page
    page.close()
    assert wrong == []


def few(page: "playwright.Page", count: int = 2, steps: int = 1) -> None:
    """Set the sliders of the tab Generate."""
    for label, value in (("Count", count), ("Steps", steps)):
        box = page.get_by_label(f"number input for {label}").first
        box.fill(str(value))
        box.press("Tab")


def downloaded(page: "playwright.Page", button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.click(button)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_generate_and_download(page: "playwright.Page", tmp_path: Path) -> None:
    few(page)
    page.click("#generate")
    page.wait_for_selector("#said :text('2 of 2 drawn')")
    captions = page.locator("#pictures .caption-label")
    assert captions.count() == 2 and all(text.startswith("synthetic") for text in captions.all_inner_texts())
    page.wait_for_selector("#download-zip")
    png = downloaded(page, "#download-png", tmp_path)
    assert read_provenance(png)["seed"] == 0 and read_image(png).shape == (64, 64)
    with zipfile.ZipFile(downloaded(page, "#download-zip", tmp_path)) as archive:
        assert len(archive.namelist()) == 5
    dicom = downloaded(page, "#download-dicom", tmp_path)
    assert dicom.suffix == ".dcm" and read_dicom(dicom).pixels.shape == (64, 64)
    if shutil.which("dciodvfy"):
        said = subprocess.run(["dciodvfy", dicom], capture_output=True, text=True, errors="replace", timeout=60)
        lines = [line for line in (said.stdout + said.stderr).splitlines() if "Error" in line]
        assert said.returncode == 0 and all("(0x0008,0x001c)" in line for line in lines), lines  # which it predates


def test_the_picture_that_is_chosen_is_what_is_downloaded(page: "playwright.Page", tmp_path: Path) -> None:
    few(page)
    page.click("#generate")
    page.wait_for_selector("#download-dicom")
    page.locator("#pictures .thumbnail-item").nth(1).click()
    page.wait_for_selector("#download-png:has-text('seed 1')")
    assert read_provenance(downloaded(page, "#download-png", tmp_path))["seed"] == 1


def test_pickers_and_prompt_follow_each_other(page: "playwright.Page") -> None:
    prompt = page.locator("#prompt textarea")
    prompt.fill("45 year old male. AP view. Cardiomegaly. A zebra.")
    page.wait_for_function("document.querySelector('#said').innerText.includes('zebra')")
    age, sex = page.get_by_label("Age", exact=True), page.get_by_label("Sex", exact=True).first
    playwright.expect(age).to_have_value("45", timeout=PATIENCE)
    playwright.expect(sex).to_have_value("male", timeout=PATIENCE)
    age.press("ControlOrMeta+A")
    age.press_sequentially("51")
    playwright.expect(prompt).to_have_value(re.compile("^51 year old male"), timeout=PATIENCE)
    assert "zebra" in prompt.input_value()


def test_stop_with_the_keyboard_alone(page: "playwright.Page") -> None:
    few(page, count=16, steps=100)
    page.locator("#generate").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#said :text('drawn')")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "stop"
    page.keyboard.press("Enter")
    page.wait_for_selector("#said :text('Stopped after')")


def test_stop_withdraws_a_request_that_waits(
    page: "playwright.Page", context: "playwright.BrowserContext", address: str
) -> None:
    other = context.new_page()
    other.goto(address)
    other.wait_for_selector("#generate")
    few(other, count=16, steps=100)
    other.click("#generate")
    other.wait_for_selector("#said :text('drawn')")
    page.click("#generate")
    page.wait_for_selector("#said :text('Waiting for 1 other request')")
    page.click("#stop")
    page.wait_for_selector("#said :text('Stopped after 0 of 4')")
    assert "Stopped" not in other.locator("#said").inner_text()
    other.click("#stop")
    other.wait_for_selector("#said :text('Stopped after')")
    other.close()


def test_captions_leave_pictures_uncovered(page: "playwright.Page") -> None:
    few(page, count=1)
    page.click("#generate")
    page.wait_for_selector("#said :text('1 of 1 drawn')")
    picture = page.locator("#pictures .thumbnail-item img").bounding_box()
    caption = page.locator("#pictures .caption-label").bounding_box()
    assert picture["width"] > 200 and caption["y"] >= picture["y"] + picture["height"] - 1


def test_compare(page: "playwright.Page") -> None:
    page.get_by_role("tab", name="Compare").click()
    box = page.get_by_label("number input for Steps").nth(1)
    box.fill("1")
    box.press("Tab")
    page.click("#compare")
    page.wait_for_selector("#compare-said :text('2 of 2 drawn')")
    assert page.locator("#compared .caption-label").count() == page.locator("#changes .caption-label").count() == 2


def test_mistakes_are_told(page: "playwright.Page") -> None:
    page.locator("#prompt textarea").fill("400 year old male.")
    page.wait_for_selector("#said :text('400')")
    page.click("#generate")
    toast = page.locator(".toast-body").first
    assert "age = 400" in toast.inner_text()
    page.get_by_role("tab", name="Audit").click()
    page.click("#audit")
    page.wait_for_selector(".toast-body:has-text('no pictures yet')")


def test_a_full_queue_is_told(page: "playwright.Page", address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()

    def wait(*_: object) -> Iterator[None]:
        free.wait(PATIENCE / 1000)
        yield from ()

    monkeypatch.setattr(Studio, "draw", wait)
    call = f"{address}/gradio_api/call/generate"
    try:
        for _ in range(WAITING + 1):
            assert httpx.post(call, json={"data": ["", 0, 1, 1, 1]}, timeout=60).status_code == 200
        page.wait_for_timeout(1000)  # until each has its place
        page.click("#generate")
        page.wait_for_selector(f".toast-body:has-text('busy: {WAITING} requests are waiting')")
    finally:
        free.set()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off(page: "playwright.Page", width: int, scheme: str) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    for tab in ("Generate", "Compare", "Dataset", "Audit", "About"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
