"""Which results exist, what was selected, and the logs."""

from pathlib import Path

import pytest
from fixtures.report_runs import ALL, finished, refined_run, run_in

from pmni.reporting.results_index import (
    Selection,
    StageState,
    Unavailable,
    available_surfaces,
    load,
    log_tails,
    read_selection,
    stage_states,
)


def test_a_finished_run_is_done_and_its_seconds_are_summed(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    finished(run, *ALL)
    states = stage_states(run)
    assert [state.state for state in states.values()] == ["done"] * 7
    assert states["train"].seconds == 1.5
    assert states["mesh"].seconds == 3.0  # two iterations


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("prepare", {"prepare": "failed", "integrate": "waiting", "evaluate": "waiting"}),
        ("integrate", {"integrate": "failed", "register": "done", "train": "waiting"}),
        ("train", {"register": "done", "train": "failed", "mesh": "waiting", "render": "waiting"}),
        ("render", {"mesh": "done", "render": "failed", "evaluate": "done"}),
        ("mesh", {"mesh": "failed", "render": "done", "evaluate": "waiting"}),
    ],
)
def test_results_from_before_a_failure_do_not_count(
    tmp_path: Path, missing: str, expected: dict[str, str]
) -> None:
    run = run_in(tmp_path)
    finished(run, *(stage for stage in ALL if stage != missing))
    states = stage_states(run)
    assert {stage: states[stage].state for stage in expected} == expected
    waiting = [state for state in states.values() if state.state == "waiting"]
    assert {state.cause for state in waiting} <= {missing}


def test_the_stages_are_those_of_the_experiment(tmp_path: Path) -> None:
    """Only a registration from nothing waits for the integration."""
    full, fast = refined_run(tmp_path), refined_run(tmp_path, trained=False, method="turntable")
    assert full.stages == (*ALL[:3], "refine", *ALL[3:])
    assert fast.stages == (*ALL[:3], "refine", *ALL[4:])
    assert "refine" not in stage_states(run_in(tmp_path))
    for run in (full, fast):
        finished(run, *(stage for stage in run.stages if stage != "integrate"))
    assert stage_states(full)["refine"].cause == "integrate"
    assert stage_states(fast)["evaluate"].state == "done"


@pytest.mark.parametrize(
    ("missing", "there"), [((), (0, 10, 20)), (("train",), (0,)), (("refine",), ())]
)
def test_the_refined_surface_counts_when_the_training_failed(
    tmp_path: Path, missing: tuple[str, ...], there: tuple[int, ...]
) -> None:
    run = refined_run(tmp_path)
    finished(run, *(stage for stage in run.stages if stage not in missing))
    assert available_surfaces(run, stage_states(run)) == there


def test_the_result_is_what_the_training_selected(tmp_path: Path) -> None:
    run = refined_run(tmp_path)
    assert refined_run(tmp_path, trained=False).result == 0
    run.folder.training.selection.parent.mkdir(parents=True)
    told = (
        '{"iteration": 0, "heldout_error_deg": {"0": 5.18, "20": 5.21}, '
        '"heldout_gain_deg": -0.03, "heldout_gain_standard_error_deg": 0.01}'
    )
    run.folder.training.selection.write_text(told, encoding="utf-8")
    assert read_selection(run) == Selection(0, {0: 5.18, 20: 5.21}, -0.03, 0.01)
    assert (run.result, run.title_of(0)) == (0, "refined (result)")
    assert (run.title_of(10), run.title_of(20)) == ("iteration 10", "iteration 20")
    run.folder.training.selection.write_text(
        '{"iteration": 10}', encoding="utf-8"
    )  # has not been rendered
    with pytest.raises(Unavailable, match=r"selection\.json: damaged .*iteration 10 is none of"):
        read_selection(run)
    assert run.result == 20


def test_a_damaged_provenance_only_costs_the_seconds(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    finished(run, *ALL)
    run.provenance("train")[0].write_text("{", encoding="utf-8")
    assert stage_states(run)["train"] == StageState("train", "done", None)


def test_an_experiment_may_have_its_own_normals(tmp_path: Path) -> None:
    assert run_in(tmp_path).capture.folder == tmp_path / "captures/cat/set_a"
    assert run_in(tmp_path, normals="set_b").capture.folder == tmp_path / "captures/cat/set_b"


def test_reading_names_the_file_that_is_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"numbers\.json: missing"):
        load(tmp_path / "numbers.json", Path.read_text)
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe")
    with pytest.raises(Unavailable, match=r"bad\.json: damaged \(UnicodeDecodeError"):
        load(tmp_path / "bad.json", lambda path: path.read_text(encoding="utf-8"))


def test_the_tail_of_a_log_is_its_last_lines_as_a_terminal_shows_them(tmp_path: Path) -> None:
    run = run_in(tmp_path / "results")
    log = tmp_path / "results/logs/train/free/cat.log"
    log.parent.mkdir(parents=True)
    log.write_text("first\nsecond\n 10 %\r 50 %\r100 %\nlast\n\n", encoding="utf-8")
    (log.parent / "dog.log").write_text("another object", encoding="utf-8")
    [tail] = log_tails(tmp_path / "results/logs", "train", run, 3)
    assert tail.lines == "second\n100 %\nlast"
    assert tail.path == "results/logs/train/free/cat.log"


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("prepare", "prepare/cat/set_a.log"),
        ("prepare", "synthesize/pets/cat.log"),
        ("prepare", "fetch/pets.log"),
        ("integrate", "integrate/cat/set_a.log"),
        ("mesh", "mesh/free/cat/iter_00000010.log"),
    ],
)
def test_logs_are_found_where_each_stage_writes_them(tmp_path: Path, stage: str, name: str) -> None:
    path = tmp_path / "logs" / name
    path.parent.mkdir(parents=True)
    path.write_text("reason", encoding="utf-8")
    assert [t.lines for t in log_tails(tmp_path / "logs", stage, run_in(tmp_path), 5)] == ["reason"]
