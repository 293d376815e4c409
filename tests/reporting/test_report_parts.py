"""The parts of the report: images, small meshes, stage states, logs, the summary, charts."""

import base64
import gzip
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import marching_cubes

from pmni.config.extensions import METRICS
from pmni.config.reporting import ReportedExperiment, ReportedObject
from pmni.evaluation.metrics import Metric
from pmni.geometry.poses import Poses
from pmni.io.poses import write_poses
from pmni.reporting import cameras, charts, descriptions, images, meshes, metric_labels
from pmni.reporting.gallery import error_scale
from pmni.reporting.panels import numbers_table
from pmni.reporting.results_index import (
    Run,
    Selection,
    StageState,
    Unavailable,
    available_surfaces,
    load,
    log_tails,
    read_selection,
    stage_states,
)
from pmni.reporting.summary import Cell, Row, build_summary, mark_best


def sphere(subdivisions: int) -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def run_in(results: Path, method: str = "turntable", normals: str | None = None) -> Run:
    entry = ReportedObject(name="cat", dataset="pets", normals="set_a")
    experiment = ReportedExperiment(
        name="free", registration_method=method, normals=normals, steps=(10, 20)
    )
    return Run(results, entry, experiment)


def touch(*paths: Path) -> None:
    for path in paths:
        if not path.suffix:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"seconds": 1.5}', encoding="utf-8")


# --- images ---------------------------------------------------------------------------------------


def test_a_normal_towards_the_camera_is_blue_and_upwards_is_green() -> None:
    normals = np.array([[[0, 0, -1.0], [0, -1.0, 0], [1.0, 0, 0]]])
    image = images.normal_image(normals, np.ones((1, 3), bool))
    assert image[0].tolist() == [[127, 127, 255, 255], [127, 255, 127, 255], [255, 127, 127, 255]]


def test_pixels_outside_the_mask_are_transparent() -> None:
    mask = np.array([[True, False]])
    for image in (images.normal_image(np.ones((1, 2, 3)), mask), images.mask_image(mask)):
        assert image[0, :, 3].tolist() == [255, 0]


def test_errors_are_coloured_from_zero_to_the_largest_and_clipped_there() -> None:
    error = np.array([[0.0, 5.0, 10.0, 99.0, np.nan]])
    image = images.error_image(error, 10.0)
    table = np.array(images.colour_table(images.ERROR_COLOURS)).reshape(-1, 3)
    assert image[0, 3].tolist() == image[0, 2].tolist()
    np.testing.assert_allclose(image[0, [0, 2], :3], table[[0, 255]], atol=1)
    np.testing.assert_allclose(image[0, 1, :3], table[128], atol=2)
    assert image[0, 4, 3] == 0


def test_an_empty_distance_map_is_fully_transparent() -> None:
    assert images.distance_image(np.full((3, 4), np.nan, np.float32)).max() == 0


def test_the_crop_holds_every_mask_and_shrinks_to_the_longest_side() -> None:
    masks = np.zeros((2, 100, 200), bool)
    masks[0, 40:60, 50:60] = True
    masks[1, 45:50, 100:150] = True
    crop = images.crop_to(masks, 50)
    assert crop.top <= 40
    assert crop.bottom >= 60
    assert crop.left <= 50
    assert crop.right >= 150
    assert crop.bottom - crop.top < 40
    small = crop.shrink(images.mask_image(crop.cut(masks[0])))
    assert max(small.shape) == 50
    fine = images.crop_to(masks, 1000)
    assert fine.scale == 1  # nothing is blown up


def test_shrinking_does_not_darken_colours_at_the_edge_of_a_mask() -> None:
    mask = np.zeros((64, 64), bool)
    mask[:, :33] = True
    normals = np.broadcast_to([0.0, 0.0, -1.0], (64, 64, 3))
    crop = images.crop_to(mask[None], 16)
    small = crop.shrink(images.normal_image(crop.cut(normals), crop.cut(mask)))
    partial = (small[..., 3] > 0) & (small[..., 3] < 255)
    assert partial.any()
    np.testing.assert_allclose(small[partial][:, 2], 255, atol=2)


def test_an_image_survives_its_data_uri_with_its_transparency() -> None:
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    normals = np.broadcast_to([0.0, 0.0, -1.0], (32, 32, 3))
    uri = images.data_uri(images.normal_image(normals, mask), 90)
    kind, _, content = uri.partition(",")
    assert kind == "data:image/webp;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_UNCHANGED)
    assert (decoded[..., 3] > 0).tolist() == mask.tolist()
    np.testing.assert_allclose(decoded[16, 16, :3], [255, 127, 127], atol=6)


def test_tiles_go_to_the_sheet_row_by_row() -> None:
    tiles = [np.full((2, 2, 4), value, np.uint8) for value in (1, 2, 3)]
    sheet = images.sprite_sheet(tiles, 2)
    assert sheet[::2, ::2, 0].tolist() == [[1, 2], [3, 0]]


def test_the_error_scale_is_round_and_none_without_errors() -> None:
    assert error_scale([np.array([[[11.9, 11.9, np.nan]]])]) == 15
    assert error_scale([]) is None
    assert error_scale([np.full((1, 2, 2), np.nan)]) is None


# --- meshes ---------------------------------------------------------------------------------------


def test_a_small_mesh_stays_as_it_is() -> None:
    vertices, faces = sphere(2)
    small = meshes.simplify(vertices, faces, 1000)
    assert len(small.faces) == len(faces)
    np.testing.assert_allclose(
        small.normals, vertices / np.linalg.norm(vertices, axis=1)[:, None], atol=0.03
    )


@pytest.mark.parametrize("largest", [300, 2000])
def test_a_simplified_sphere_is_closed_round_and_small_enough(largest: int) -> None:
    vertices, faces = sphere(5)
    small = meshes.simplify(10 * vertices, faces, largest)
    assert largest / 3 < len(small.faces) <= largest
    mesh = trimesh.Trimesh(small.vertices, small.faces, process=False)
    assert np.unique(mesh.edges_sorted, axis=0, return_counts=True)[1].min() >= 2  # no cracks
    np.testing.assert_allclose(mesh.volume, 4 / 3 * np.pi * 1000, rtol=20 / largest)
    radius = np.linalg.norm(small.vertices, axis=1)
    np.testing.assert_allclose(radius, 10, rtol=20 / largest)
    outwards = (small.normals * small.vertices).sum(1) / radius
    assert outwards.min() > 0.97


def test_edges_stay_sharp_and_thin_walls_stay_apart() -> None:
    box = trimesh.creation.box((1.0, 1.0, 0.01))
    for _ in range(6):
        box = box.subdivide()
    small = meshes.simplify(np.asarray(box.vertices), np.asarray(box.faces), 2000)
    mesh = trimesh.Trimesh(small.vertices, small.faces, process=False)
    np.testing.assert_allclose(mesh.bounds, box.bounds, atol=2e-3)
    np.testing.assert_allclose(mesh.volume, 0.01, rtol=0.05)


def test_no_face_is_turned_against_the_surface() -> None:
    i, j, k = np.indices((80, 80, 40)) - np.array([40, 40, 20])[:, None, None, None] + 0.01
    ring = np.hypot(np.hypot(i, j) - 25, k) - 9 + np.sin(i / 2) * np.cos(j / 2) * np.sin(k / 2)
    vertices, faces, _, _ = marching_cubes(ring, 0.0)
    small = meshes.simplify(vertices, faces, 6000)
    a, b, c = (small.vertices[corner] for corner in small.faces.T)
    face_normals = np.cross(b - a, c - a)
    face_normals /= np.linalg.norm(face_normals, axis=1, keepdims=True)
    along = np.einsum("fi,fki->fk", face_normals, small.normals[small.faces]).mean(1)
    assert along.min() > 0


@pytest.fixture
def _restless_threads():
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("_restless_threads")
def test_meshes_that_are_simplified_side_by_side_are_as_alone() -> None:
    vertices, faces = sphere(6)
    sizes = [1.0, 2.0, 3.0, 4.0]
    alone = [meshes.simplify(size * vertices, faces, 5000).vertices for size in sizes]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda size: meshes.simplify(size * vertices, faces, 5000), 2 * sizes)
        for small, expected in zip(found, 2 * alone, strict=True):
            np.testing.assert_array_equal(small.vertices, expected)


def test_values_are_carried_over_as_means_and_gaps_stay_gaps() -> None:
    cluster = np.array([0, 0, 1, 2, 2, -1])
    values = np.array([1.0, 3.0, np.nan, 5.0, np.nan, 99.0])
    np.testing.assert_array_equal(meshes.average(values, cluster, 3), [2.0, np.nan, 5.0])


def test_a_mesh_without_faces_is_refused() -> None:
    with pytest.raises(ValueError, match="no faces"):
        meshes.simplify(np.zeros((3, 3)), np.zeros((0, 3), int), 10)


def unpack(header: dict, packed: str) -> dict[str, np.ndarray]:
    """What `viewer.js` makes of a packed mesh, written down a second time."""
    data = np.frombuffer(gzip.decompress(base64.b64decode(packed)), np.uint8).astype(np.int64)
    count, start, columns = (header["vertices"], 0, [])
    per_vertex = 7 if header["values"] else 6
    for length in [header["faces"]] * 3 + [count] * per_vertex:
        planes = data[start : start + 3 * length].reshape(3, length)
        code = planes[0] + (planes[1] << 8) + (planes[2] << 16)
        columns.append((code >> 1) ^ -(code & 1))
        start += 3 * length
    assert start == len(data)
    a, b, c = np.cumsum(columns[0]), columns[1], columns[2]
    rows = np.cumsum(columns[3:], axis=1).T
    lower, upper = np.array(header["lower"]), np.array(header["upper"])
    unpacked = {
        "faces": np.stack([a, a + b, a + b + c], 1),
        "vertices": lower + (upper - lower) * rows[:, :3] / 16383,
        "normals": rows[:, 3:6] / 127,
    }
    if header["values"]:
        low, high = header["values"]
        steps = rows[:, 6]
        unpacked["values"] = np.where(steps < 0, np.nan, low + (high - low) * steps / 1023)
    return unpacked


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), with_values=st.booleans())
def test_what_is_packed_is_unpacked(seed: int, with_values: bool) -> None:
    random = np.random.default_rng(seed)
    vertices = random.normal(0, 50, (40, 3))
    normals = random.normal(0, 1, (40, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    faces = random.integers(0, 40, (70, 3))
    values = np.where(random.random(40) < 0.2, np.nan, random.random(40)) if with_values else None
    found = unpack(*meshes.pack(vertices, normals, faces, values))
    np.testing.assert_array_equal(found["faces"], faces)
    np.testing.assert_allclose(found["vertices"], vertices, atol=300 / 16383)
    np.testing.assert_allclose(found["normals"], normals, atol=0.5 / 127)
    if values is not None:
        np.testing.assert_allclose(found["values"], values, atol=1 / 1023)


# --- what is there --------------------------------------------------------------------------------


def finished(run: Run, *stages: str) -> None:
    for stage in stages:
        touch(*run.outputs(stage), *run.provenance(stage))
    if "train" in stages:
        result = max(run.experiment.steps)
        run.folder.training.selection.write_text(f'{{"iteration": {result}}}', encoding="utf-8")


ALL = ("prepare", "integrate", "register", "train", "mesh", "render", "evaluate")


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


def refined_run(results: Path, trained: bool = True, method: str = "from_scratch") -> Run:
    entry = ReportedObject(name="cat", dataset="pets", normals="set_a")
    steps = (0, 10, 20) if trained else (0,)
    experiment = ReportedExperiment(
        name="free",
        registration_method=method,
        refined=True,
        trained=trained,
        steps=steps,
        candidates=(0, steps[-1]) if trained else (0,),
    )
    return Run(results, entry, experiment)


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


@pytest.mark.parametrize(
    ("refined", "trained", "result", "errors", "gain", "words_of_it"),
    [
        (True, True, 0, {0: 5.18, 20: 5.21}, (-0.03, 0.01), "Kept the refined surface: the network "
         "did not lower the error on held-out normals (5.21 vs 5.18 degrees)."),
        (True, True, 0, {0: 6.075, 20: 6.072}, (0.003, 0.01, 2.0), "Kept the refined surface: the "
         "network's gain of 0.003 ± 0.010 degrees on held-out normals (6.07 vs 6.08 degrees) is "
         "not significant."),
        (True, True, 0, {0: 6.075, 20: 6.072}, (0.003, 0.001, 2.0), "Kept the refined surface: the "
         "network's gain of 0.003 ± 0.001 degrees on held-out normals (6.07 vs 6.08 degrees) is "
         "too small to matter."),
        (True, True, 0, {0: 6.075, 20: 6.072}, (0.003, 0.001, 4.0), "Kept the refined surface: the "
         "network's gain of 0.003 ± 0.001 degrees on held-out normals (6.07 vs 6.08 degrees) is "
         "not significant."),
        (True, True, 0, {0: 6.075, 20: 6.072}, (0.003, 0.001), "Kept the refined surface: the "
         "network's gain of 0.003 ± 0.001 degrees on held-out normals (6.07 vs 6.08 degrees) is "
         "not significant or too small to matter."),
        (True, True, 20, {0: 5.18, 20: 5.0}, (0.18, 0.02), "The network lowered the error on "
         "held-out normals by 0.180 ± 0.020 degrees (5.00 vs 5.18 degrees), so its surface at "
         "iteration 20 is the result."),
        (True, True, 20, {0: 5.18, 20: 5.0}, (None, None), "The network lowered the error on "
         "held-out normals by 0.180 degrees (5.00 vs 5.18 degrees), so its surface at iteration "
         "20 is the result."),
        (True, True, 20, {}, (None, None), "The result is the surface at iteration 20."),
        (True, True, 0, {}, (None, None), "The result is the refined surface."),
        (True, False, 0, {}, (None, None), "The refined surface is the result; this experiment "
         "trains no network."),
        (False, True, 20, {}, (None, None), ""),
    ],
)  # fmt: skip
def test_the_verdict_is_said_in_words(
    refined: bool,
    trained: bool,
    result: int,
    errors: dict[int, float],
    gain: tuple[float | None, ...],
    words_of_it: str,
) -> None:
    assert descriptions.selection_text(refined, trained, result, 20, errors, *gain) == words_of_it


def test_a_candidate_must_be_one_of_the_steps() -> None:
    with pytest.raises(ValueError, match="5 is not one of the steps"):
        ReportedExperiment(
            name="a", registration_method="from_scratch", steps=(0, 10), candidates=(0, 5)
        )


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


# --- numbers --------------------------------------------------------------------------------------


def test_the_best_is_the_lowest_distance_and_the_highest_score() -> None:
    rows = [
        Row("a", {"chamfer_mm": Cell("chamfer_mm", 0.2), "fscore_2.0": Cell("fscore_2.0", 0.5)}),
        Row("b", {"chamfer_mm": Cell("chamfer_mm", 0.3), "fscore_2.0": Cell("fscore_2.0", 0.9)}),
        Row("c", {"chamfer_mm": Cell("chamfer_mm"), "fscore_2.0": Cell("fscore_2.0", 0.9)}),
    ]
    mark_best(rows)
    assert [row.cells["chamfer_mm"].best for row in rows] == [True, False, False]
    assert [row.cells["fscore_2.0"].best for row in rows] == [False, True, True]


def test_a_single_number_is_not_called_the_best() -> None:
    row = Row("a", {"chamfer_mm": Cell("chamfer_mm", 0.2)})
    mark_best([row])
    assert not row.cells["chamfer_mm"].best


def test_published_numbers_stand_beside_ours_and_are_never_marked(tmp_path: Path) -> None:
    run = run_in(tmp_path, "reference")
    finished(run, *ALL)
    run.folder.metrics(20).write_text('{"chamfer_mm": 0.5, "alignment": "icp"}', encoding="utf-8")
    pd.DataFrame(
        {
            "dataset": ["pets", "pets", "zoo"],
            "object": ["cat", "cat", "cat"],
            "experiment": ["free", "Other", "Another"],
            "iteration": [20, np.nan, np.nan],
            "source": ["ours", "Somebody 2020", "Somebody 2021"],
            "chamfer_mm": [0.5, 0.1, 0.2],
            "total_seconds": [77.0, np.nan, np.nan],
        }
    ).to_csv(tmp_path / "benchmark.csv", index=False)
    summary = build_summary(tmp_path, [run], {run.key: stage_states(run)}, str)
    ours, theirs = summary.groups[0].rows
    assert (ours.cells["chamfer_mm"].value, ours.cells["total_seconds"].value) == (0.5, 77.0)
    assert (theirs.label, theirs.source) == ("Other", "Somebody 2020")
    assert theirs.cells["chamfer_mm"].value == 0.1
    assert not theirs.cells["chamfer_mm"].best
    assert ours.alignment == "icp"
    assert ours.poses is not None
    assert ours.poses.kind == "given"
    assert [column.key for column in summary.columns] == ["chamfer_mm", "total_seconds"]


def test_a_metric_of_another_package_is_in_the_summary_and_in_all_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(METRICS, "_added", {})
    hausdorff = Metric(
        key="hausdorff_mm",
        label="Hausdorff",
        meaning="Largest distance.",
        unit="mm",
        direction="lower",
        format=".1f",
        leading=True,
        compute=lambda comparison: None,
    )
    METRICS.register("hausdorff_mm", hausdorff)
    run = run_in(tmp_path, "reference")
    finished(run, *ALL)
    for step in (10, 20):
        run.folder.metrics(step).write_text('{"hausdorff_mm": 1.25}', encoding="utf-8")
    states = stage_states(run)
    [column] = [
        column
        for column in build_summary(tmp_path, [run], {run.key: states}, str).columns
        if column.key == "hausdorff_mm"
    ]
    assert (column.label, column.unit, column.arrow) == ("Hausdorff", "mm", "↓")
    table = numbers_table(run, states)
    assert ("Hausdorff, mm", ["1.2", "1.2"], "Largest distance.") in table.lines


def test_a_failed_run_has_no_numbers_even_if_old_ones_lie_there(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    finished(run, *(stage for stage in ALL if stage != "train"))
    run.folder.metrics(20).write_text('{"chamfer_mm": 0.5}', encoding="utf-8")
    summary = build_summary(tmp_path, [run], {run.key: stage_states(run)}, str)
    [row] = summary.groups[0].rows
    assert row.failed == "train"
    assert all(cell.value is None for cell in row.cells.values())
    assert [str(problem.path.name) for problem in summary.problems] == ["benchmark.csv"]


def test_means_are_over_the_objects_that_worked_and_compare_only_if_these_are_the_same(
    tmp_path: Path,
) -> None:
    runs = []
    lines = ["dataset,object,experiment,iteration,source,chamfer_mm"]
    for name, chamfer in (("cat", 0.2), ("dog", 0.6)):
        lines += [f"pets,{name},Full,,Somebody,0.{len(runs)}", f"pets,{name},Half,,Else,"]
        for experiment, factor in (("free", 1), ("fixed", 0.5), ("broken", 0.1)):
            run = run_in(tmp_path)
            entry = run.entry.model_copy(update={"name": name})
            run = Run(tmp_path, entry, run.experiment.model_copy(update={"name": experiment}))
            finished(run, *ALL)
            numbers = f'{{"chamfer_mm": {chamfer * factor}, "alignment": "icp"}}'
            run.folder.metrics(20).write_text(numbers, encoding="utf-8")
            runs.append(run)
    (tmp_path / "benchmark.csv").write_text("\n".join(lines), encoding="utf-8")
    runs[2].folder.training.history.unlink()  # cat, broken
    summary = build_summary(tmp_path, runs, {run.key: stage_states(run) for run in runs}, str)
    means = {row.label: row for row in summary.groups[-1].rows}
    assert list(means) == ["free", "fixed", "broken", "Full"]  # Half has no numbers
    values = [row.cells["chamfer_mm"].value for row in means.values()]
    assert values == pytest.approx([0.4, 0.2, 0.06, 0.15])
    assert [row.cells["chamfer_mm"].best for row in means.values()] == [False, True, False, False]
    assert means["broken"].note == "1 of 2 objects"


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("reference", "given"),
        ("noisy", "disturbed"),
        ("turntable", "free"),
        ("from_scratch", "free"),
    ],
)
def test_experiments_that_know_the_poses_are_told_apart(method: str, kind: str) -> None:
    assert descriptions.pose_kind(method).kind == kind


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("chamfer_mm", 0.12345, "0.123"),
        ("mae_deg", None, "–"),
        ("mae_deg", float("nan"), "–"),
        ("vertices", 12345, "12,345"),
        ("watertight", True, "yes"),
        ("something", 0.000123456, "0.0001235"),
        ("device", "cpu", "cpu"),
    ],
)
def test_numbers_are_shown_as_people_read_them(key: str, value: object, text: str) -> None:
    assert metric_labels.format_value(key, value) == text


# --- charts ---------------------------------------------------------------------------------------


def test_every_numeric_column_of_the_history_is_in_a_chart(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text(
        "step,seconds,loss,normal,rate,inv_s,new_thing,remark\n"
        "10,1,0.5,0.4,1e-3,100,7,x\n20,2,0.3,,5e-4,200,8,y\n",
        encoding="utf-8",
    )
    named = charts.history_charts(charts.read_history(path))
    traces = {t["name"]: t for _, chart in named for t in chart["traces"]}
    assert set(traces) == {"loss", "normal", "rate", "inv_s", "new_thing"}
    assert traces["loss"]["x"] == [10, 20]
    assert traces["normal"]["y"] == [0.4, None]


def test_a_long_history_is_thinned_and_keeps_its_ends(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    pd.DataFrame({"step": np.arange(5000), "loss": np.arange(5000) + 1.0}).to_csv(path)
    steps = charts.read_history(path)["step"]
    assert len(steps) == charts.MAX_CURVE_POINTS
    assert (steps.iloc[0], steps.iloc[-1]) == (0, 4999)


def test_a_file_that_is_no_history_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="step"):
        charts.read_history(path)


def test_the_refinement_is_charted_with_its_grids(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text(
        "iteration,cells,seconds,normal_residual_deg,rotation_change_deg,normal_tilt_bias,focal_factor\n"
        "1,64,0.1,9,0,0,1\n2,64,0.2,7,0,0.01,1\n3,128,0.4,6,0,0.02,1\n",
        encoding="utf-8",
    )
    named = dict(charts.refinement_charts(charts.read_history(path, "iteration")))
    # fixed cameras do not turn, and a factor that never changes says nothing
    assert list(named) == [
        "Residual of the normals, degrees",
        "Tilt bias of the normals, common to all views",
    ]
    for chart in named.values():
        assert chart["marks"] == [{"x": 0.5, "text": "64³"}, {"x": 2.5, "text": "128³"}]
        assert chart["traces"][0]["x"] == [1, 2, 3]


def test_what_registration_says_of_itself_and_of_each_view() -> None:
    information = {"method": "free", "score": 0.81254, "verified": True, "note": {"a": "text"}}
    information |= {"confidence": {"a": 0.5, "b": 1}, "other": {"z": 1.0}}
    assert cameras.facts_of(information) == ["method free", "score 0.813", "verified: yes"]
    assert cameras.numbers_by_view(information, ("a", "b")) == {"confidence": {"a": 0.5, "b": 1.0}}


def test_the_uncertainty_of_a_rotation_is_that_of_all_its_axes() -> None:
    variances = np.diag(np.deg2rad([1.0, 2.0, 2.0, 9.0, 9.0, 9.0]) ** 2)
    poses = Poses(("a",), np.eye(4)[None], {"covariance": {"a": variances.tolist()}})
    assert cameras.uncertainty_deg(poses) == {"a": pytest.approx(3.0)}
    assert cameras.uncertainty_deg(Poses(("a",), np.eye(4)[None])) == {}


def test_a_rotation_of_the_whole_world_is_no_pose_error(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    random = np.random.default_rng(0)
    c2w = np.tile(np.eye(4), (5, 1, 1))
    for index in range(5):
        c2w[index, :3, :3] = np.linalg.qr(random.normal(size=(3, 3)))[0]
        c2w[index, :3, :3] *= np.sign(np.linalg.det(c2w[index, :3, :3]))
        c2w[index, :3, 3] = random.normal(size=3)
    world = np.eye(4)
    world[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    views = tuple("abcde")
    turned = c2w.copy()
    angle = np.deg2rad(10)
    turned[0, :3, :3] = c2w[0, :3, :3] @ [
        [np.cos(angle), -np.sin(angle), 0],
        [np.sin(angle), np.cos(angle), 0],
        [0, 0, 1],
    ]
    write_poses(run.folder.registration.poses, Poses(views, world @ turned))
    write_poses(run.folder.poses(10), Poses(views, world @ c2w))
    write_poses(run.folder.poses(20), Poses(views[1:], c2w[1:]))  # one view is held out
    series = cameras.pose_series(run, Poses(views, c2w), (10, 20))
    assert list(series) == ["start", "iteration 10", "iteration 20"]
    assert max(series["iteration 10"].values()) < 1e-5
    assert set(series["iteration 20"]) == set(views[1:])
    # one camera of five is off by 10 degrees: the best common turn shares it out
    assert series["start"]["a"] == pytest.approx(8, abs=0.1)
    assert sum(series["start"].values()) == pytest.approx(16, abs=0.3)
    chart = cameras.view_chart(series)
    assert [trace["name"] for trace in chart["traces"]] == ["start", "iteration 20"]
    assert [len(trace["x"]) for trace in chart["traces"]] == [5, 4]
