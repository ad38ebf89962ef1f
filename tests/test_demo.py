"""The demo page, driven the way a script or a browser drives it: over HTTP."""

import gc
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("gradio")
client_library = pytest.importorskip("gradio_client")

from synthcxr.demo import build, launch  # noqa: E402
from synthcxr.demo.page import MAX_PROMPT, Studio  # noqa: E402
from synthcxr.errors import RunError  # noqa: E402
from synthcxr.images import DIGITAL_SOURCE_TYPE, read_image, read_provenance  # noqa: E402

PROMPT = "72 year old female. PA view. Pleural effusion."
JSON = {"Content-Type": "application/json"}
PATIENCE = 600  # seconds; a busy machine is no failure


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def port(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a running page whose cache is a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
        port = free_port()
        page = launch(str(tiny_model), port, block=False)
        yield port
        page.close()


@pytest.fixture(scope="module")
def client(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("downloads")
    client = client_library.Client(
        f"http://127.0.0.1:{port}", download_files=folder, verbose=False, httpx_kwargs={"timeout": PATIENCE}
    )
    yield client
    client.close()


def draw(client: Any, prompt: str = PROMPT, seed: int = 5, count: int = 2) -> Any:
    return client.predict(prompt, seed, count, 2, 2.0, api_name="/generate")


def test_pictures_are_marked_png_files_and_repeat_to_the_byte(client: Any) -> None:
    pictures, said = draw(client)
    again, _ = draw(client)
    other, _ = draw(client, seed=6, count=1)
    assert [picture["caption"] for picture in pictures] == ["synthetic · seed 5", "synthetic · seed 6"]
    files = [Path(picture["image"]) for picture in pictures]
    for seed, file in zip((5, 6), files, strict=True):
        assert file.suffix == ".png" and read_image(file).shape == (64, 64) and read_image(file).dtype == np.uint8
        marks = read_provenance(file)
        assert marks and (marks["seed"], marks["origin"], marks["age"]) == (seed, "synthetic", 72)
        assert DIGITAL_SOURCE_TYPE.encode() in file.read_bytes()
    assert [Path(picture["image"]).read_bytes() for picture in again] == [file.read_bytes() for file in files]
    assert Path(other[0]["image"]).read_bytes() == files[1].read_bytes() != files[0].read_bytes()
    assert "Understood: female, 72 years, PA view, pleural effusion" in said and "never saw" not in said


def test_says_which_words_the_model_never_saw(client: Any) -> None:
    _, said = draw(client, "99 year old male. Large left pneumothorax. A zebra.", count=1)
    never = said.split("The model never saw: ")[1].split(", ")
    assert {"99", "large", "left", "pneumothorax", "zebra"} <= set(never) and "male" not in never
    assert "zebra" in said.splitlines()[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt": "400 year old male."}, "400"),
        ({"prompt": "x" * 1_000_000}, f"1,000,000 characters; shorten it to {MAX_PROMPT}"),
        ({"prompt": None}, "prompt must be text"),
        ({"count": None}, "count is empty"),
        ({"count": 17}, "count = 17 must be a number from 1 to 16"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 1.5}, "seed = 1.5 must be a whole number"),
        ({"seed": 10**400}, "seed = 1000"),
        ({"seed": "<b>" * 100}, "seed = &lt;b&gt;"),
        ({"steps": float("nan")}, "steps = nan must be a number from 1 to 100"),
        ({"steps": True}, "steps = True"),
        ({"guidance": float("inf")}, "guidance = inf must be a number from 1 to 10"),
        ({"guidance": [1]}, "guidance = [1]"),
    ],
)
def test_bad_input_is_answered_in_one_readable_line(port: int, changed: dict[str, Any], message: str) -> None:
    """Sent as raw JSON: a browser, or gradio_client, would stop some of it."""
    arguments = {"prompt": PROMPT, "seed": 0, "count": 1, "steps": 1, "guidance": 2} | changed
    call = f"http://127.0.0.1:{port}/gradio_api/call/generate"
    body = json.dumps({"data": list(arguments.values())})
    event = httpx.post(call, content=body, headers=JSON, timeout=PATIENCE).json()["event_id"]
    answer = httpx.get(f"{call}/{event}", timeout=PATIENCE).text
    kind, data = answer.strip().splitlines()[-2:]
    said = json.loads(data.removeprefix("data: "))
    assert kind == "event: error" and message in (said["error"] if isinstance(said, dict) else said)
    assert "Traceback" not in answer and len(answer) < 500


def test_missing_model_is_named_at_the_first_request(tmp_path: Path) -> None:
    drawing = Studio(str(tmp_path), tmp_path / "cache").draw(PROMPT, 0, 1, 1, 2)
    with pytest.raises(Exception, match="isn't a model"):
        next(drawing)


def test_stop_ends_within_a_step_and_the_next_drawing_runs(client: Any) -> None:
    job = client.submit(PROMPT, 0, 16, 100, 2.0, api_name="/generate")
    while not job.outputs() and not job.done():
        time.sleep(0.02)
    client.predict(api_name="/stop")
    pictures, said = job.result(timeout=PATIENCE)
    assert len(pictures) < 16 and f"Stopped after {len(pictures)} of 16" in said
    assert len(draw(client, count=1)[0]) == 1


def test_stop_is_read_at_each_step(tiny_model: Path, tmp_path: Path) -> None:
    studio = Studio(str(tiny_model), tmp_path)
    drawing = studio.draw(PROMPT, 0, 2, 100, 2)
    next(drawing)
    studio.stop()
    assert [(pictures, said.splitlines()[-1]) for pictures, said in drawing] == [([], "Stopped after 0 of 2 pictures.")]


def test_model_is_opened_once_whoever_asks(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from synthcxr.model import folder

    opened, real = [], folder.load_model
    monkeypatch.setattr(folder, "load_model", lambda *source: opened.append(source) or real(*source))
    studio = Studio(str(tiny_model), tmp_path)
    threads = [threading.Thread(target=studio.model) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1


def test_files_lie_in_a_folder_of_their_own_that_goes_with_the_page(tiny_model: Path, tmp_path: Path) -> None:
    studio = Studio(str(tiny_model), tmp_path / "cache")
    *_, (pictures, _) = studio.draw(PROMPT, 0, 1, 1, 2)
    path = Path(pictures[0][0])
    assert path.is_file() and path.parent.parent.stat().st_mode & 0o077 == 0
    del studio
    gc.collect()
    assert list((tmp_path / "cache").iterdir()) == []


def test_serves_only_loopback_and_only_its_own_files(port: int) -> None:
    with socket.socket() as other:
        # Another loopback address stands for another interface: a server on 0.0.0.0 would answer there.
        assert other.connect_ex(("127.0.0.2", port)) != 0
    base = f"http://127.0.0.1:{port}"
    assert "Research only. Not for diagnosis." in httpx.get(f"{base}/config", timeout=PATIENCE).text
    for path in ("/etc/hostname", str(Path(__file__).resolve()), "pyproject.toml"):
        assert httpx.get(f"{base}/gradio_api/file={path}").status_code in (403, 404)
    foreign = httpx.get(f"{base}/config", headers={"Origin": "https://example.com"})
    assert "access-control-allow-origin" not in foreign.headers


def test_settings_of_the_page_and_a_taken_port(tiny_model: Path, port: int) -> None:
    page = build(str(tiny_model))
    assert page.analytics_enabled is False and page.delete_cache
    assert page._queue.max_size == 16 and page._queue.default_concurrency_limit == 1
    with pytest.raises(RunError, match=f"port {port}"):
        launch(str(tiny_model), port, block=False)


def test_importing_the_demo_leaves_torch_alone() -> None:
    code = "import sys, synthcxr.demo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE).returncode == 0
