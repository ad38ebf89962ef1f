"""The demo page, driven the way a script or a browser drives it: over HTTP."""

import gc
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("gradio")
client_library = pytest.importorskip("gradio_client")

import gradio as gr  # noqa: E402

from synthcxr.conditions import Condition, parse_prompt  # noqa: E402
from synthcxr.data.dataset import Dataset  # noqa: E402
from synthcxr.data.verify import verify  # noqa: E402
from synthcxr.demo import build, launch  # noqa: E402
from synthcxr.demo.about import card_of  # noqa: E402
from synthcxr.demo.audit import audit  # noqa: E402
from synthcxr.demo.compare import ATTRIBUTES, difference, variants  # noqa: E402
from synthcxr.demo.dataset import make_dataset  # noqa: E402
from synthcxr.demo.generate import EXAMPLES, captioned, draw, zipped  # noqa: E402
from synthcxr.demo.inputs import MAX_PROMPT  # noqa: E402
from synthcxr.demo.pickers import ROWS, prompt_of, values_of  # noqa: E402
from synthcxr.demo.studio import CACHE_AGE, Studio  # noqa: E402
from synthcxr.dicom.read import read_dicom  # noqa: E402
from synthcxr.errors import ConfigError, RunError  # noqa: E402
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


def ask(client: Any, prompt: str = PROMPT, seed: int = 5, count: int = 2) -> Any:
    return client.predict(prompt, seed, count, 2, 2.0, api_name="/generate")


def test_pictures_are_marked_png_files_and_repeat_to_the_byte(client: Any) -> None:
    pictures, said = ask(client)
    again, _ = ask(client)
    other, _ = ask(client, seed=6, count=1)
    told = "72 year old female. PA view. Pleural effusion."
    assert [picture["caption"] for picture in pictures] == [f"synthetic · seed {seed} · {told}" for seed in (5, 6)]
    files = [Path(picture["image"]) for picture in pictures]
    for seed, file in zip((5, 6), files, strict=True):
        assert file.suffix == ".png" and read_image(file).shape == (64, 64) and read_image(file).dtype == np.uint8
        marks = read_provenance(file)
        assert marks and (marks["seed"], marks["origin"], marks["age"]) == (seed, "synthetic", 72)
        assert DIGITAL_SOURCE_TYPE.encode() in file.read_bytes()
    assert [Path(picture["image"]).read_bytes() for picture in again] == [file.read_bytes() for file in files]
    assert Path(other[0]["image"]).read_bytes() == files[1].read_bytes() != files[0].read_bytes()
    assert "<dt>Understood</dt><dd>female, 72 years, PA view, pleural effusion</dd>" in said and "never saw" not in said


def test_says_which_words_the_model_never_saw(client: Any) -> None:
    _, said = ask(client, "99 year old male. Large left pneumothorax. A zebra.", count=1)
    understood, never = re.findall("<dd>(.*?)</dd>", said)[::2]
    assert {"99", "large", "left", "pneumothorax", "zebra"} <= set(never.split(", ")) and "male" not in never.split(
        ", "
    )
    assert "zebra" in understood


def test_what_was_typed_is_shown_as_text(client: Any) -> None:
    _, said = ask(client, "<script>alert(1)</script> <img src=x onerror=alert(1)> \u202e\U0001f600", count=1)
    assert "<script>" not in said and "<img" not in said and "&lt;script&gt;" in said


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


@pytest.mark.parametrize(
    "prompt",
    [
        "\ud800",
        "a\x00b\x1b[31m",
        "\u202e" * MAX_PROMPT,
        "\U0001f4a5" * MAX_PROMPT,
        "{age} {0} %s $HOME",
        "../../x\\n^1",
        "\n\r\t",
    ],
    ids=["half a surrogate", "control", "right to left", "emoji", "templates", "paths", "blank"],
)
def test_odd_text_is_drawn_or_told(tiny_model: Path, tmp_path: Path, prompt: str) -> None:
    studio = Studio(str(tiny_model), tmp_path)
    try:
        *_, (pictures, said, (one,)) = draw(studio, None, prompt, 0, 1, 1, 2)
    except gr.Error as error:
        assert prompt == "\ud800" and error.message == "prompt holds half a character; type it again"
        return
    assert len(pictures) == 1 and "1 of 1 drawn" in said
    assert read_provenance(one.png)["origin"] == "synthetic" and read_dicom(one.dicom).pixels.shape == (64, 64)
    assert zipped([one]).is_file()


def test_missing_model_is_named_at_the_first_request(tmp_path: Path) -> None:
    drawing = draw(Studio(str(tmp_path), tmp_path / "cache"), None, PROMPT, 0, 1, 1, 2)
    assert "Drawing 1" in next(drawing)[1]  # the page says so, and looks for the model only now
    with pytest.raises(Exception, match="isn't a model|no model_index.json"):
        next(drawing)


def test_stop_ends_within_a_step_and_the_next_drawing_runs(client: Any) -> None:
    job = client.submit(PROMPT, 0, 16, 100, 2.0, api_name="/generate")
    while not job.outputs() and not job.done():
        time.sleep(0.02)
    client.predict(api_name="/stop")
    pictures, said = job.result(timeout=PATIENCE)
    assert len(pictures) < 16 and f"Stopped after {len(pictures)} of 16" in said
    assert len(ask(client, count=1)[0]) == 1


def test_stop_is_read_at_each_step_and_is_ones_own(tiny_model: Path, tmp_path: Path) -> None:
    studio = Studio(str(tiny_model), tmp_path)
    drawing = draw(studio, "one", PROMPT, 0, 2, 2, 2)
    next(drawing)
    studio.line.stop("another", "generate")  # somebody else's button
    studio.line.stop("one", "dataset")  # one's own, for something else
    assert len(next(drawing)[0]) == 1
    studio.line.stop("one", "generate")
    (pictures, said, files), *more = drawing
    assert (len(pictures), len(files), more) == (1, 1, []) and "Stopped after 1 of 2 pictures." in said


def test_a_waiting_request_is_withdrawn_and_the_others_go_on(client: Any, port: int) -> None:
    other = client_library.Client(f"http://127.0.0.1:{port}", verbose=False, httpx_kwargs={"timeout": PATIENCE})
    first = client.submit(PROMPT, 0, 2, 100, 2.0, api_name="/generate")
    while not first.outputs() and not first.done():
        time.sleep(0.02)
    second = other.submit(PROMPT, 0, 2, 100, 2.0, api_name="/generate")
    while not second.outputs() and not second.done():
        time.sleep(0.02)
    assert "Waiting for 1 other request" in second.outputs()[0][1]
    other.predict(api_name="/stop")
    pictures, said = second.result(timeout=PATIENCE)
    assert pictures == [] and "Stopped after 0 of 2" in said and not first.done()
    assert "2 of 2 drawn" in first.result(timeout=PATIENCE)[1]
    other.close()


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
    *_, (pictures, _, drawn) = draw(studio, None, PROMPT, 0, 1, 1, 2)
    path = Path(pictures[0][0])
    assert path.is_file() and path.parent.parent.stat().st_mode & 0o077 == 0
    os.utime(path.parent, (0, time.time() - CACHE_AGE - 1))
    names = {studio.new_folder().name for _ in range(3)}
    assert not path.exists()
    assert len(names) == 3 and all(len(name) == 16 for name in names)  # others' can't be had by counting on
    with pytest.raises(Exception, match="deleted after an hour"):
        zipped(drawn)
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
    build("no/such/model")  # a page is there before its model is looked for
    assert page.analytics_enabled is False and page.delete_cache
    assert page._queue.max_size == 16 and page._queue.default_concurrency_limit == 1
    with pytest.raises(RunError, match=f"port {port}"):
        launch(str(tiny_model), port, block=False)


def test_importing_the_demo_leaves_torch_alone() -> None:
    code = "import sys, synthcxr.demo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE).returncode == 0


def test_other_machines_need_a_password(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(ConfigError, match="SYNTHCXR_DEMO_AUTH"):
            launch(str(tiny_model), free_port(), host)
    for auth in ("", "user", "user:", ":password"):
        with pytest.raises(ConfigError, match="user:password"):
            launch(str(tiny_model), free_port(), auth=auth)
    page = launch(str(tiny_model), port := free_port(), auth="user:password", block=False)
    try:
        assert httpx.get(f"http://127.0.0.1:{port}/config", timeout=PATIENCE).status_code == 401
    finally:
        page.close()


def test_zip_holds_each_picture_twice_and_its_row(tiny_model: Path, tmp_path: Path) -> None:
    studio = Studio(str(tiny_model), tmp_path)
    *_, (_, _, drawn) = draw(studio, None, PROMPT, 7, 2, 1, 2)
    with zipfile.ZipFile(zipped(drawn)) as archive:
        names = archive.namelist()
        rows = [json.loads(line) for line in archive.read("metadata.jsonl").splitlines()]
    assert sorted(name.rsplit(".")[-1] for name in names) == ["dcm", "dcm", "jsonl", "png", "png"]
    assert [(row["file_name"], row["seed"]) for row in rows] == [(one.png.name, one.seed) for one in drawn]
    assert all(caption.startswith("synthetic") for _, caption in captioned(drawn))


LONG = "45 year old asian male. Lateral view. Large left pneumothorax. No edema. A zebra."


@pytest.mark.parametrize("prompt", [*EXAMPLES, "", LONG])
def test_pickers_and_prompt_say_the_same(prompt: str) -> None:
    values = values_of(prompt)
    assert len(values) == 4 + 3 * ROWS
    assert parse_prompt(prompt_of(prompt, *values)) == parse_prompt(prompt)
    assert values_of(prompt_of("Cardiomegaly.", *values)) == values


def test_a_picker_changes_its_part_of_the_prompt_alone() -> None:
    prompt = "45 year old male. Large left pneumothorax. Edema. Mass. Nodule. No hernia. A zebra."
    age, *rest = values_of(prompt)
    changed = prompt_of(prompt, "46", *rest)
    assert parse_prompt(changed) == parse_prompt(prompt).model_copy(update={"age": 46})
    for age in ("4x", "400", float("nan"), None, [1]):
        prompt_of(prompt, age, *rest)  # nothing breaks
    for sex in ("<b>", 7, ["male"]):
        assert not isinstance(prompt_of(prompt, "46", sex, *rest[1:]), str)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_compared_conditions_differ_in_one_attribute(attribute: str) -> None:
    asked = parse_prompt("60 year old female. PA view. No acute findings. A zebra.")
    field = attribute.lower() if attribute.lower() in Condition.model_fields else "findings"
    conditions = [condition for _, condition in variants(asked, attribute)]
    assert len({condition.model_dump_json() for condition in conditions}) == len(conditions) > 1
    for condition in conditions:
        assert condition.model_copy(update={field: None}) == asked.model_copy(update={field: None})


def test_difference_is_signed_about_mid_grey() -> None:
    first = np.array([[0, 100, 255]], np.uint8)
    map_, mean = difference(first, np.array([[0, 110, 0]], np.uint8))
    assert map_.tolist() == [[128, 138, 0]] and mean == pytest.approx(265 / 3)
    assert difference(first, first)[1] == 0


def test_comparison_over_http(client: Any) -> None:
    pictures, changes, said = client.predict(PROMPT, "Sex", 3, 1, 2.0, api_name="/compare")
    assert [one["caption"].split(" · ")[:2] for one in pictures] == [["synthetic", "female"], ["synthetic", "male"]]
    assert len(changes) == 2 and read_provenance(changes[1]["image"])["difference_to"] == "female"
    assert "2 of 2 drawn" in said
    alike = client.predict(PROMPT, "Race", 3, 1, 2.0, api_name="/compare")[2]
    assert "was told the same" in alike  # the tiny model knows no words for it


def test_dataset_over_http(client: Any, tmp_path: Path) -> None:
    arguments = (5, ["Cardiomegaly", "No Finding"], ["female", "male"], ["PA"], 0, 1, 2.0, False)
    state, table, pictures, archive = client.predict(*arguments, api_name="/dataset")
    assert "5 of 5 rows" in state and table.count("<tr>") == 6
    assert all(one["caption"].startswith("synthetic") for one in pictures)
    path = archive["value"] if isinstance(archive, dict) else archive
    with zipfile.ZipFile(path) as file:
        file.extractall(tmp_path)
    assert len(Dataset.open(tmp_path / "dataset")) == 5 and verify(tmp_path / "dataset") == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ((0, 65), "rows = 65 must be a number from 1 to 64"),
        ((1, ["zebra"]), "findings must be some of"),
        ((2, "female"), "sex must be some of"),
        ((5, 0), "steps = 0 must be"),
        ((7, True), "holds no calibration"),  # said by the command itself
    ],
)
def test_mistakes_in_a_dataset_are_one_line(client: Any, changed: tuple[int, Any], message: str) -> None:
    arguments = [1, ["Cardiomegaly"], ["female"], ["PA"], 0, 1, 2.0, False]
    arguments[changed[0]] = changed[1]
    with pytest.raises(Exception, match=message):
        client.predict(*arguments, api_name="/dataset")


def held(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # a process that has ended since
        return b""


def test_a_cancelled_dataset_leaves_no_process(tiny_model: Path, tmp_path: Path) -> None:
    studio = Studio(str(tiny_model), tmp_path)
    job = make_dataset(studio, "me", 64, ["Cardiomegaly"], ["female"], ["PA"], 0, 100, 2.0, False)
    next(job)
    threading.Timer(1, studio.line.stop, ["me", "dataset"]).start()
    *_, (state, table, pictures, _) = job
    assert "Cancelled after" in state and (table, pictures) == ("", [])
    assert not [one for one in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in held(one)]
    assert not list(tmp_path.rglob("manifest.parquet"))


def test_audit_without_a_classifier_says_so(tiny_model: Path, tmp_path: Path) -> None:
    studio = Studio(str(tiny_model), tmp_path)
    with pytest.raises(Exception, match="no pictures yet"):
        list(audit(studio, None, []))
    *_, (_, _, drawn) = draw(studio, None, PROMPT, 0, 1, 1, 2)
    with pytest.raises(Exception, match="holds no classifier"):
        list(audit(studio, None, drawn))


def test_audit_with_the_embedded_model(tmp_path: Path) -> None:
    from synthcxr.model.folder import EMBEDDED

    if not (EMBEDDED / "screen" / "limits.json").exists():
        pytest.skip("no calibrated screen in this checkout")
    studio = Studio(None, tmp_path)
    *_, (_, _, drawn) = draw(studio, None, PROMPT, 0, 1, 2, 2)
    *_, (state, cards) = audit(studio, None, drawn)
    asked, read, distance, verdict, meant = re.findall("<dd>(.*?)</dd>", cards)
    assert "1 of 1 audited" in state and "synthetic · seed 0" in cards and str(drawn[0].png) in cards
    assert asked == "female, 72 years, PA view, pleural effusion" and "years" in read
    assert 0 <= float(distance.split()[0]) <= 2 and re.match("lets it pass|fails it: ", verdict)
    assert re.match("No sign of a copy|Perhaps a copy", meant) and "72 years" in meant and "female" in meant
    assert "Validation patients" not in card_of(studio) and "What it can't do" in card_of(studio)


def test_app_is_the_same_as_the_verb() -> None:
    app = Path(__file__).parents[1] / "app.py"
    shown = subprocess.run([sys.executable, app, "--help"], capture_output=True, text=True, timeout=PATIENCE)
    assert shown.returncode == 0 and "--port" in shown.stdout and "--host" in shown.stdout


@pytest.mark.slow
def test_memory_stays_flat_over_a_thousand_requests(port: int, client: Any) -> None:
    """In this very process the server runs too: what either keeps of a request would show."""

    def resident() -> float:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc here")
    call = f"http://127.0.0.1:{port}/gradio_api/call/generate"
    sizes = []
    with httpx.Client(timeout=PATIENCE) as session:
        for number in range(1000):
            prompt = f"{number % 90} year old male. AP view. Free text {number}."  # what is kept by prompt would show
            body = json.dumps({"data": [prompt, number, 1, 1, 2.0]})
            event = session.post(call, content=body, headers=JSON).json()["event_id"]
            assert "event: complete" in session.get(f"{call}/{event}").text
            if number % 100 == 99:
                sizes.append(resident())
    assert sizes[-1] - sizes[2] < 30, sizes  # megabytes, over the last 700
