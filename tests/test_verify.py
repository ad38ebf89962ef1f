"""`synthcxr verify` finds what storage and hands do to a folder: 1,000 seeded faults, each of them."""

import json
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import drawn_chest

from synthcxr.conditions import Condition
from synthcxr.data.dataset import Dataset
from synthcxr.data.sums import SUMS, files_in, write_sums
from synthcxr.data.verify import verify
from synthcxr.data.writer import DatasetWriter
from synthcxr.errors import DatasetError

FAULTS = 1000
Tree = dict[str, bytes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six images of 24 px in two shards, with a table attached. Not to be changed."""
    with DatasetWriter(tmp_path_factory.mktemp("whole") / "data", origin="real", shard_rows=3) as writer:
        for index in range(6):
            writer.add(
                drawn_chest(24, seed=index), id=f"i{index}", patient=f"p{index}", study="s",
                split=("train", "validate", "test")[index % 3], source="drawn", licence="CC0",
                condition=Condition(age=40 + index, findings=["Edema"]), report="Edema." if index else None,
            )  # fmt: skip
        writer.attach("decisions.csv", b"id,why\ni9,dropped\n")
    return writer.dataset


@pytest.fixture
def data(whole: Dataset, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole.path, tmp_path / "data"))


def tree_of(folder: Path) -> Tree:
    return {name: (folder / name).read_bytes() for name in (*files_in(folder), SUMS)}


def flipped(tree: Tree, rng: random.Random, folder: Path) -> Tree:
    name = rng.choice(sorted(tree))
    data = bytearray(tree[name])
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return tree | {name: bytes(data)}


def truncated(tree: Tree, rng: random.Random, folder: Path) -> Tree:
    name = rng.choice(sorted(tree))
    return tree | {name: tree[name][: rng.randrange(len(tree[name]))]}


def deleted(tree: Tree, rng: random.Random, folder: Path) -> Tree:
    name = rng.choice(sorted(tree))
    return {other: data for other, data in tree.items() if other != name}


def duplicated(tree: Tree, rng: random.Random, folder: Path) -> Tree:
    name = rng.choice(sorted(tree))
    return tree | {rng.choice([f"{name}.1", f"copy of {name}", f"more/{name}", "shards/00002.tar"]): tree[name]}


def appended(tree: Tree, rng: random.Random, folder: Path) -> Tree:
    name = rng.choice(sorted(tree))
    return tree | {name: tree[name] + rng.choice([tree[name], b"\0", b"\n", tree[name][-9:]])}


def extra(tree: Tree, rng: random.Random, folder: Path) -> Tree:
    name = rng.choice([".hidden", "notes.txt", "shards/.DS_Store", "shards/00009.tar", "a\nb", "deep/er/x.png"])
    return tree | {name: rng.randbytes(rng.randrange(40))}


def swapped_files(tree: Tree, rng: random.Random, folder: Path) -> Tree:
    one, other = rng.sample(sorted(tree), 2)
    return tree | {one: tree[other], other: tree[one]}


def swapped_images(tree: Tree, rng: random.Random, folder: Path) -> Tree:
    """Two images change places as far as the shorter one goes, inside a shard or between the two."""
    one, other = rng.sample(Dataset.open(folder).records, 2)
    size = min(one.size, other.size)
    shards = {f"shards/{record.shard}": bytearray(tree[f"shards/{record.shard}"]) for record in (one, other)}
    places = [(shards[f"shards/{record.shard}"], slice(record.offset, record.offset + size)) for record in (one, other)]
    (a, at_a), (b, at_b) = places
    a[at_a], b[at_b] = bytes(b[at_b]), bytes(a[at_a])
    return tree | {name: bytes(data) for name, data in shards.items()}


def rewritten(tree: Tree, folder: Path, rows: list[dict]) -> Tree:
    table = pq.read_table(folder / "manifest.parquet")
    pq.write_table(table.from_pylist(rows, schema=table.schema), folder / "manifest.parquet", compression="zstd")
    return tree | {"manifest.parquet": (folder / "manifest.parquet").read_bytes()}


def swapped_rows(tree: Tree, rng: random.Random, folder: Path) -> Tree:
    rows = pq.read_table(folder / "manifest.parquet").to_pylist()
    a, b = rng.sample(range(len(rows)), 2)
    rows[a], rows[b] = rows[b], rows[a]
    return rewritten(tree, folder, rows)


def edited_row(tree: Tree, rng: random.Random, folder: Path) -> Tree:
    rows = pq.read_table(folder / "manifest.parquet").to_pylist()
    column, value = rng.choice(
        [("age", 7), ("sex", "male"), ("findings", None), ("split", "test"), ("licence", "none"), ("weight", 2.0)]
    )
    row = rng.choice([row for row in rows if row[column] != value])
    row[column] = value
    return rewritten(tree, folder, rows)


def changed_row_count(tree: Tree, rng: random.Random, folder: Path) -> Tree:
    rows = pq.read_table(folder / "manifest.parquet").to_pylist()
    row = rng.choice(rows)
    return rewritten(tree, folder, [*rows, row] if rng.random() < 0.5 else [other for other in rows if other != row])


def changed_line(tree: Tree, rng: random.Random, folder: Path) -> Tree:
    """A line of SHA256SUMS lost, doubled, moved, in capitals, or with other line ends."""
    lines = tree[SUMS].split(b"\n")[:-1]
    place = rng.randrange(len(lines))
    others = lines[:place] + lines[place + 1 :]
    changed = rng.choice(
        [others, [*lines, lines[place]], [*others, lines[place] + b" "], lines[::-1], [x.upper() for x in lines]]
    )
    end = rng.choice([b"\n", b"\n\n", b"\r\n", b""])
    return tree | {SUMS: b"\n".join(changed) + end}


KINDS: tuple[Callable[[Tree, random.Random, Path], Tree], ...] = (
    flipped, flipped, flipped, truncated, deleted, duplicated, appended, extra, swapped_files, swapped_images,
    swapped_rows, edited_row, changed_row_count, changed_line,
)  # fmt: skip


def put(folder: Path, old: Tree, new: Tree) -> None:
    """Make a folder that holds `old` hold `new`."""
    for name in old.keys() - new.keys():
        (folder / name).unlink()
    for name, data in new.items():
        path = folder / name
        if old.get(name) != data or not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def test_each_of_1000_faults_is_found(data: Path) -> None:
    rng, pristine = random.Random(0), tree_of(data)
    assert verify(data) == []
    injected, missed = Counter(), []
    while injected.total() < FAULTS:
        kind = KINDS[injected.total() % len(KINDS)]
        faulty = kind(pristine, rng, data)
        (data / "manifest.parquet").write_bytes(pristine["manifest.parquet"])
        if faulty == pristine:  # such as lines in capitals that held no letter
            continue
        put(data, pristine, faulty)
        injected[kind.__name__] += 1
        if not verify(data):
            missed.append((kind.__name__, injected.total()))
        put(data, faulty, pristine)
    assert missed == [] and verify(data) == []
    assert len(injected) >= len(set(KINDS)) and min(injected[kind.__name__] for kind in KINDS) > 50


def test_bits_all_over_the_small_files_count(data: Path) -> None:
    """Among them the root of trust, whose own bits nothing else guards."""
    for name in (SUMS, "dataset.json"):
        whole = (data / name).read_bytes()
        for place in range(0, len(whole), 5 if name == SUMS else 97):
            for bit in (0, 5, 7):  # 5 is the case of a letter
                damaged = bytearray(whole)
                damaged[place] ^= 1 << bit
                (data / name).write_bytes(damaged)
                assert verify(data), (name, place, bit)
        (data / name).write_bytes(whole)
    assert verify(data) == []


def test_the_problem_is_named(data: Path, whole: Dataset) -> None:
    shard = data / "shards" / "00000.tar"
    damaged = bytearray(shard.read_bytes())
    damaged[whole.records[1].offset + 60] ^= 1
    shard.write_bytes(damaged)
    assert verify(data) == [
        "shards/00000.tar: sha256 differs from SHA256SUMS",
        "i1: sha256 of the image differs from the manifest",
    ]
    shard.write_bytes(damaged[: whole.records[1].offset + 10])
    assert any("ends before image i1" in problem for problem in verify(data))
    shard.unlink()
    assert "shards/00000.tar: missing" in verify(data)
    (data / "a\nb").write_bytes(b"")
    assert r"'a\nb': not listed in SHA256SUMS" in verify(data)


@pytest.mark.parametrize("kind", [swapped_images, edited_row, changed_row_count])
def test_a_change_is_found_although_the_sums_were_made_anew(data: Path, kind: Callable) -> None:
    """Not a forger's, who would change the shard as well: somebody's who edits the manifest and makes the sums fit."""
    rng, pristine = random.Random(1), tree_of(data)
    for _ in range(20):
        faulty = kind(pristine, rng, data)
        put(data, pristine, faulty)
        (data / "manifest.parquet").write_bytes(faulty["manifest.parquet"])
        write_sums(data)
        assert verify(data), kind.__name__
        put(data, tree_of(data), pristine)
        (data / "manifest.parquet").write_bytes(pristine["manifest.parquet"])


def test_links_and_folders_in_place_of_files(data: Path, tmp_path: Path) -> None:
    (data / "linked").symlink_to(tmp_path)
    assert verify(data) == ["linked: not listed in SHA256SUMS"]
    (data / "linked").unlink()
    (data / "README.md").unlink()
    (data / "README.md").mkdir()
    assert verify(data) == ["README.md: missing"]


def test_a_dataset_without_sums_says_what_is_not_checked(data: Path) -> None:
    (data / SUMS).unlink()
    problems = verify(data)
    assert len(problems) == 1 and "dataset.json and README.md can't be checked" in problems[0]
    info = json.loads((data / "dataset.json").read_text())
    assert set(info["shards"]) == {"00000.tar", "00001.tar"}
    (data / "decisions.csv").write_bytes(b"")
    (data / "more.txt").write_bytes(b"")
    assert verify(data)[1:] == [
        "more.txt: not listed in dataset.json", "decisions.csv: sha256 differs from dataset.json",
    ]  # fmt: skip
    (data / "dataset.json").write_text("[]")
    assert any("dataset.json" in problem for problem in verify(data)[1:])


def test_what_is_neither_is_said_to_be_neither(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DatasetError, match="no dataset.json and no SHA256SUMS"):
            verify(folder)


def test_coreutils_reads_the_sums(data: Path) -> None:
    if not shutil.which("sha256sum"):
        pytest.skip("no sha256sum on this machine")
    command = ["sha256sum", "-c", "--strict", "--quiet", SUMS]
    assert subprocess.run(command, cwd=data, capture_output=True).returncode == 0
    (data / "README.md").write_text("x")
    assert subprocess.run(command, cwd=data, capture_output=True).returncode == 1
