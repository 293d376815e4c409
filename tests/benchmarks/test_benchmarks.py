"""The benchmarks run, and their clocks, comparisons and reports are right."""
# ruff: noqa: E402  the folder of the benchmarks is not installed

import json
import math
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import kernels
from benchmarks.__main__ import PARTS, chosen_parts, main
from benchmarks.bench import Bench
from benchmarks.ceilings import Ceilings, Work
from benchmarks.records import Record, ratios
from benchmarks.report import file_stem, format_value, markdown
from benchmarks.sizes import QUICK
from benchmarks.surfaces import capture_of, with_views
from benchmarks.timing import PeakMemory, Stopwatch, median_seconds
from pmni.kernels import BACKEND_VARIABLE

CPU = torch.device("cpu")


# ------------------------------------------------------------------------------------- the whole
@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a quick run of all parts."""
    folder = tmp_path_factory.mktemp("benchmarks")
    command = [sys.executable, "-m", "benchmarks", "--quick", "--device", "cpu"]
    subprocess.run(
        [*command, "--output", str(folder)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True,
    )  # fmt: skip
    return folder


def refuse(name: str) -> None:
    raise AssertionError(f"{name} in JSON")


def read(folder: Path) -> dict[str, Any]:
    """The numbers of a run, all of them finite."""
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_quick_run_measures_every_part(output: Path) -> None:
    run = read(output)
    assert {record["part"] for record in run["records"]} == set(PARTS)
    for record in run["records"]:
        assert math.isfinite(record["value"])
        assert record["value"] > 0, record
        assert record["unit"] in {"s", "MB", "1/s"}
    assert {ratio["part"] for ratio in run["ratios"]} == set(PARTS)
    assert all(0 < ratio["ratio"] < math.inf for ratio in run["ratios"])


def test_every_record_has_a_name_of_its_own(output: Path) -> None:
    records = read(output)["records"]
    keys = {tuple(record[key] for key in ("part", "name", "variant", "unit")) for record in records}
    assert len(keys) == len(records)


def test_a_run_says_what_made_it(output: Path) -> None:
    run = read(output)
    assert run["quick"]
    assert run["device"] == "cpu"
    assert {"processor", "cores"} <= set(run["hardware"])
    # What follows the +, the build, is not in the version of every package.
    assert run["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"date", "commit", "threads"} <= set(run)


def test_phases_add_up_to_the_whole(output: Path) -> None:
    records = [r for r in read(output)["records"] if r["unit"] == "s"]
    for part, name in (("refine", "usual capture by phase"), ("train", "step by phase")):
        values = {
            r["variant"]: r["value"] for r in records if (r["part"], r["name"]) == (part, name)
        }
        whole = values.pop("whole")
        assert len(values) > 5
        assert sum(values.values()) == pytest.approx(whole)
    assert {"rays", "march", "field", "composite", "backward", "optimiser"} <= set(values)


def test_meshers_agree(output: Path) -> None:
    found = [r["difference"] for r in read(output)["records"] if r["part"] == "mesh"]
    compared = [value for value in found if value is not None]
    assert compared
    assert max(compared) < 1e-3


def test_table_and_picture_stand_beside_the_numbers(output: Path) -> None:
    (table,), (picture,) = output.glob("*.md"), output.glob("*.png")
    text = table.read_text()
    assert all(f"## {part}" in text for part in PARTS)
    assert "the numbers mean nothing" in text
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert table.stem == picture.stem
    assert table.stem.endswith("-quick")


def test_an_unknown_part_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--parts", "mesh,tea", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no part 'tea'" in error
    assert not list(tmp_path.iterdir())
    assert list(chosen_parts("train,kernels")) == ["kernels", "train"]


# ---------------------------------------------------------------------------------------- clocks
def test_the_median_of_a_known_sleep() -> None:
    calls: list[float] = []

    def call(seconds: float) -> None:
        calls.append(seconds)
        time.sleep(seconds)

    waits = iter([0.2, 0.02, 0.02, 0.02, 0.02, 0.2])  # three uncounted, then three

    def prepare() -> tuple[float]:
        time.sleep(0.05)  # not timed
        return (next(waits),)

    found = median_seconds(call, CPU, 3, prepare)
    assert len(calls) == 6
    assert 0.02 <= found < 0.06


def test_slow_calls_are_not_repeated() -> None:
    calls: list[None] = []

    def call() -> None:
        calls.append(None)
        time.sleep(0.03)

    median_seconds(call, CPU, 20, most_seconds=0.05)
    assert 2 <= len(calls) <= 3


class Worker:
    """Something with a method to watch."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def inner(self, value: int) -> int:
        self.seen.append(value)
        time.sleep(0.02)
        return value + 1


def test_a_phase_within_another_counts_to_itself_alone() -> None:
    watch, work = Stopwatch(CPU), Worker()
    before = Worker.inner
    with watch.watching((Worker, "inner", "inner")), watch.phase("outer"):
        time.sleep(0.01)
        assert work.inner(1) == 2
        assert work.inner(value=2) == 3
    assert Worker.inner is before
    assert work.seen == [1, 2]
    spent = watch.take()
    assert 0.04 <= spent["inner"] < 0.08
    assert 0.01 <= spent["outer"] < 0.03
    assert watch.take() == {}


def test_what_is_spent_may_be_taken_within_a_phase() -> None:
    watch = Stopwatch(CPU)
    with watch.phase("rest"):
        time.sleep(0.01)
        assert watch.take()["rest"] >= 0.01
        assert watch.take()["rest"] < 0.01


def test_what_is_watched_has_to_be_there() -> None:
    with pytest.raises(AttributeError), Stopwatch(CPU).watching((Worker, "other", "phase")):
        pass


def test_peak_memory_sees_what_is_given_back() -> None:
    with PeakMemory(CPU) as before:
        pass
    # 64 MB that are new to the process, as malloc's might not be
    with PeakMemory(CPU) as memory, mmap.mmap(-1, 2**26) as block:
        for page in range(0, 2**26, mmap.PAGESIZE):
            block[page] = 1
        time.sleep(0.05)
    assert memory.megabytes - before.megabytes > 50


# ----------------------------------------------------------------------------------- comparisons
def test_ratios_are_to_what_was_measured_of_the_same() -> None:
    records = [
        Record("p", "a", "old", 4.0, "s"),
        Record("p", "a", "new", 1.0, "s", {}, ("old", "missing", "new")),
        Record("p", "a", "new", 9.0, "MB", {}, ("old",)),
        Record("p", "b", "new", 3.0, "s", {}, ("old",)),
    ]
    (found,) = ratios(records)
    assert (found.variant, found.reference, found.unit, found.ratio) == ("new", "old", "s", 0.25)


def test_the_floor_is_the_slower_of_bytes_and_operations() -> None:
    ceilings = Ceilings(2.0, 200, 1.0, 1000, 1e-6)  # 100 bytes, 1000 operations a second
    assert ceilings.floor(Work(300, 10)) == pytest.approx(3)
    assert ceilings.floor(Work(300, 5000)) == pytest.approx(5)


def test_differences_are_relative_to_the_largest_and_of_numbers_only() -> None:
    expected = torch.tensor([1.0, -8.0, torch.nan, 2.0])
    found = torch.tensor([1.5, -8.0, 7.0, 2.25])
    assert kernels.difference(found, expected) == pytest.approx(0.5 / 8)
    assert kernels.difference(found, expected, quantile=0.66) == pytest.approx(0.25 / 8)


def test_how_numbers_are_written() -> None:
    for value, unit, text in ((0.00025, "s", "250 us"), (0.0312, "s", "31.2 ms"),
                              (2.346, "s", "2.35 s"), (1234.5, "MB", "1234 MB")):  # fmt: skip
        assert format_value(value, unit) == text


def test_files_are_named_by_date_and_hardware() -> None:
    run = {"date": "2026-01-02T03:04:05+00:00", "commit": "abc", "threads": 1, "quick": False,
           "hardware": {"gpu": "NVIDIA H100 80GB HBM3", "processor": "Xeon(R)", "cores": 4},
           "versions": {"torch": "2.9"}, "device": "cuda", "parts": None}  # fmt: skip
    assert file_stem(run) == "2026-01-02-nvidia-h100-80gb-hbm3"
    assert file_stem(run | {"device": "cpu"}) == "2026-01-02-xeon-r"
    some = {"device": "cpu", "parts": ["mesh", "train"], "quick": True}
    assert file_stem(run | some) == "2026-01-02-xeon-r-mesh-train-quick"
    text = markdown(run, [Record("p", "a", "new", 1.0, "s", {}, ("old",), 1e-6),
                          Record("p", "a", "old", 2.0, "s")])  # fmt: skip
    assert "| a | new | 1 s | 0.5 x old | 1.0e-06 |" in text
    assert "commit abc" in text


# -------------------------------------------------------------------------------------- captures
def test_a_capture_is_made_with_its_truth() -> None:
    capture = capture_of(6, 40, 48, 4000)
    assert capture.masks.any((1, 2)).all()
    assert capture.ground_truth_mesh is not None
    fewer = with_views(capture, 3)
    assert fewer.views == ("00", "02", "04")
    assert fewer.normals.shape == (3, 40, 48, 3)
    assert with_views(capture, 6).views == capture.views


# --------------------------------------------------------------------------------------- kernels
def test_kernels_are_compared_with_their_reference_implementations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a GPU; here both are the reference, so they agree exactly."""
    monkeypatch.setattr(kernels, "implementations", lambda device: ["torch", "triton"])
    found = list(kernels.run(Bench(CPU, QUICK)))
    ours = [record for record in found if record.variant == "triton"]
    assert {"sphere tracing", "least value"} < {record.name for record in ours}
    assert len(ours) == 8
    assert all(record.difference == 0 for record in ours)
    compared = {ratio.reference for ratio in ratios(found) if ratio.variant == "triton"}
    assert compared == {"torch", "floor"}


def test_which_implementation_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BACKEND_VARIABLE, raising=False)
    for implementation, wanted in (("torch", "torch"), ("triton", "triton"), ("tiny", "triton")):
        with kernels.running(implementation):
            assert os.environ[BACKEND_VARIABLE] == wanted
    assert BACKEND_VARIABLE not in os.environ
    assert kernels.implementations(CPU) == ["torch"]
