"""The whole page, from a complete run and from every kind of broken one."""

import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest
from fixtures.report_page import between, data_of, page_of, section
from fixtures.report_results import EXPERIMENTS, NORMALS, Tree, ellipsoid_capture, run_stage

from pmni.data.capture import save_capture

COULD_NOT = "could not be made"

CHARTS = {
    "Losses": 2,
    "Learning rate": 2,
    "Residual of the normals, degrees": 2,
    "Rotation of the cameras in an iteration, degrees": 2,
    "Rotation error of the cameras": 2,
    "Rotation error, view by view": 2,
    "Uncertainty of the refined cameras, view by view": 2,
    "Registration: confidence, view by view": 2,
    "Chamfer": 1,
}


def test_nothing_is_missing_from_the_page_of_a_complete_run(page: str) -> None:
    assert "Not available" not in page
    assert COULD_NOT not in page
    assert "all complete" in page
    for name in ("pebble", "egg"):
        part = section(page, name)
        for layer in ("Input normals", "Masks", "Integrated distance", "Ground-truth normals"):
            assert f'data-name="{layer}"' in part
        for layer in ("Rendered normals", "Error of the normals"):
            assert part.count(f'data-name="{layer}"') == len(EXPERIMENTS)
        for title, count in CHARTS.items():
            assert part.count(f"<h4>{title}</h4>") == count
        assert part.count("<li class=") == 8 + 7 + 7
        assert 'class="viewer"' in part
        assert part.count('class="series"') == len(EXPERIMENTS)


def test_the_page_holds_all_it_needs(page: str) -> None:
    markup = page.partition('<script>\n"use strict"')[0]
    addresses = re.findall(r"""(?:src|href|action)=["']([^"']*)""", markup)
    assert all(address.startswith(("#", "data:image/webp;base64,")) for address in addresses)
    assert not re.search(r"url\(|@import|<link|<iframe", page)
    assert page.count('id="plotly"') == page.count('id="three"') == 1
    assert "default-src 'none'" in page
    identifiers = re.findall(r'\bid="([^"]+)"', markup)
    assert len(identifiers) == len(set(identifiers))
    targets = re.findall(r'(?:aria-controls|aria-labelledby)="([^"]+)"', markup)
    links = [link[1:] for link in addresses if link.startswith("#")]
    assert set(targets + links) <= set(identifiers)


def test_the_numbers_are_those_of_the_metrics(page: str, complete_results: Tree) -> None:
    summary = between(page, '<section id="summary">', "</section>")
    metrics = json.loads(
        (complete_results.results / "free/pebble/metrics/iter_00000300.json").read_text("utf-8")
    )
    for key, decimals in (("chamfer_mm", 3), ("mae_deg", 2), ("fscore_0.5", 3)):
        assert f"{metrics[key]:.{decimals}f}" in summary
    before, after = (
        metrics[f"rotation_error_{which}_mean_deg"] for which in ("initial", "cameras")
    )
    assert before > 3 * after  # the fixture's cameras do improve
    text = re.sub(r"<[^>]*>", "", summary)
    assert f"{before:.2f} → {after:.2f}" in text


def test_the_summary_says_who_knew_the_poses_and_how_it_was_aligned(page: str) -> None:
    summary = between(page, '<section id="summary">', "</section>")
    rows = re.findall(r"<tr>.*?</tr>", summary, re.S)
    by_name = {re.findall(r">([\w-]+)</a>", row)[0]: row for row in rows if "<a href" in row}
    assert "pose-free" in by_name["free"]
    assert "reference poses" in by_name["calibrated"]
    rows = summary.partition(">egg</a>")
    assert (rows[0].count(">icp<"), rows[2].count(">cameras<")) == (3, 3)
    assert rows[2].count(">cameras, icp<") == 3  # the means
    assert "Brument et al., CVPR 2024" in summary
    assert "0.220" in summary


def test_the_numbers_are_those_of_the_surface_that_is_kept(
    page: str, complete_results: Tree
) -> None:
    folder = complete_results.results / "free/egg/metrics"
    refined, trained = (
        json.loads((folder / f"iter_{step:08d}.json").read_text("utf-8")) for step in (0, 300)
    )
    summary = between(page, '<section id="summary">', "</section>").partition(">egg</a>")[2]
    row = summary.partition("<small>refined</small>")[2].partition("</tr>")[0]
    assert f"{refined['chamfer_mm']:.3f}" in row
    assert f"{trained['chamfer_mm']:.3f}" not in row
    for each in (refined, trained):  # both stand side by side in the object's section
        assert f"{each['chamfer_mm']:.3f}" in section(page, "egg")


def test_every_chart_and_mesh_that_is_named_is_there(page: str) -> None:
    data = data_of(page)
    assert set(re.findall(r'data-chart="([^"]+)"', page)) == set(data["charts"])
    blobs = {s["blob"] for scene in data["scenes"].values() for s in scene["surfaces"]}
    blobs |= {scene["atlas"] for scene in data["scenes"].values()} | {"plotly", "three"}
    assert set(re.findall(r'type="text/plain" id="([^"]+)"', page)) == blobs


def delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


RUN = "free/pebble"
STEP = "iter_00000300"


@pytest.mark.parametrize(
    "name",
    [
        f"captures/pebble/{NORMALS}/capture.npz",
        f"captures/pebble/{NORMALS}",
        f"integration/pebble/{NORMALS}",
        f"{RUN}/register/initial_poses.json",
        f"{RUN}/register",
        f"{RUN}/refine/history.csv",
        f"{RUN}/refine/refined_poses.json",
        f"{RUN}/refine",
        f"{RUN}/train/history.csv",
        f"{RUN}/train/selection.json",
        f"{RUN}/train/poses/{STEP}.json",
        f"{RUN}/train",
        f"{RUN}/meshes/{STEP}.ply",
        f"{RUN}/renders",
        f"{RUN}/renders/{STEP}/00.exr",
        f"{RUN}/metrics/{STEP}.json",
        f"{RUN}/metrics/{STEP}.errors.npz",
        f"{RUN}/metrics",
        RUN,
    ],
)
def test_a_missing_file_costs_its_panels_and_nothing_else(tree: Tree, name: str) -> None:
    delete(tree.results / name)
    page = page_of(tree, experiments=1)
    assert COULD_NOT not in page
    assert "Not available" not in section(page, "egg")
    if name.endswith(".exr"):  # a view without a render is one tile less
        assert "Not available" not in page
        return
    problems = unescape(section(page, "pebble"))
    assert "missing" in problems
    assert f"results/{name}" in problems


@pytest.mark.parametrize(
    "name",
    [
        f"captures/pebble/{NORMALS}/capture.npz",
        f"integration/pebble/{NORMALS}/ray_distance.npz",
        f"{RUN}/register/initial_poses.json",
        f"{RUN}/refine/history.csv",
        f"{RUN}/refine/refined_poses.json",
        f"{RUN}/train/history.csv",
        f"{RUN}/train/selection.json",
        f"{RUN}/train/poses/{STEP}.json",
        f"{RUN}/meshes/{STEP}.ply",
        f"{RUN}/renders/{STEP}/00.exr",
        f"{RUN}/metrics/{STEP}.json",
        f"{RUN}/metrics/{STEP}.errors.npz",
    ],
)
@pytest.mark.parametrize("damage", ["garbage", "empty"])
def test_a_damaged_file_is_named_in_its_panel(tree: Tree, name: str, damage: str) -> None:
    path = tree.results / name
    path.write_bytes({"garbage": b"\x00\xff" * 99, "empty": b""}[damage])
    page = page_of(tree, experiments=1)
    assert COULD_NOT not in page
    assert re.search(rf"results/{name}: damaged", unescape(section(page, "pebble")))
    assert "Not available" not in section(page, "egg")


@pytest.mark.parametrize(
    "name",
    [
        f"captures/pebble/{NORMALS}/capture.npz",
        f"integration/pebble/{NORMALS}/ray_distance.npz",
        f"{RUN}/train/poses/{STEP}.json",
        f"{RUN}/meshes/{STEP}.ply",
        f"{RUN}/metrics/{STEP}.errors.npz",
    ],
)
def test_a_truncated_file_is_named_in_its_panel(tree: Tree, name: str) -> None:
    path = tree.results / name
    path.write_bytes(path.read_bytes()[:-200])
    page = page_of(tree, experiments=1)
    assert COULD_NOT not in page
    assert re.search(rf"results/{name}: damaged", unescape(section(page, "pebble")))


def test_a_damaged_table_is_named_and_the_numbers_come_from_the_metrics(tree: Tree) -> None:
    (tree.results / "benchmark.csv").write_text("nonsense", encoding="utf-8")
    page = page_of(tree)
    summary = between(page, '<section id="summary">', "</section>")
    assert "results/benchmark.csv: damaged" in summary
    assert "Chamfer" in summary


def test_a_failed_training_is_marked_and_explained_by_its_log(tree: Tree) -> None:
    """Its former results, which are still there, are not shown; the refined surface is."""
    (tree.results / RUN / "train/history.csv").unlink()
    log = tree.results / "logs/train" / f"{RUN}.log"
    log.write_text(
        "\n".join(f"line {number}" for number in range(40)) + "\nno space left <on device>\n",
        encoding="utf-8",
    )
    page = page_of(tree)
    part = section(page, "pebble")
    assert "1 object" not in page
    assert "5 of 6 complete" in page
    assert "train failed" in between(page, '<section id="summary">', "</section>")
    assert "no space left &lt;on device&gt;" in part
    assert "line 39" in part
    assert "line 20" not in part  # only the end of the log
    assert "results/logs/train/free/pebble.log" in part
    assert "free: only the refined surface, as stage train did not finish" in part
    scene = data_of(page)["scenes"]["part-pebble"]
    keys = [surface["key"] for surface in scene["surfaces"]]
    assert keys == ["free/0", "fast/0", "calibrated/300", "truth"]
    tab = between(part, 'id="part-pebble-free"', 'id="part-pebble-fast"')
    assert tab.count('class="series"') == 1
    assert between(tab, "<h3>All numbers</h3>", "</thead>").count("<th scope") == 1


def test_a_failed_refinement_leaves_no_surface_of_its_experiment(tree: Tree) -> None:
    (tree.results / RUN / "refine/refined_poses.json").unlink()
    part = section(page_of(tree), "pebble")
    assert "free: no surface, as stage refine did not finish" in part
    tab = between(part, 'id="part-pebble-free"', 'id="part-pebble-fast"')
    assert "refine failed" in tab
    assert 'class="series"' not in tab
    assert "Registration: method from_scratch" in tab


def test_a_run_of_which_nothing_is_there_still_has_its_page(tmp_path: Path, tree: Tree) -> None:
    page = page_of(Tree(tmp_path, tree.config | {"logs": str(tmp_path / "none")}))
    assert "no result has a provenance file" in page
    assert "0 of 6 complete" in page
    assert page.count("prepare failed") >= 6


def test_an_unforeseen_fault_of_one_object_is_reported_and_logged(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import pmni.reporting.page as module

    def fails(capture: object, *rest: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(module, "build_scene", fails)
    page = page_of(tree)
    assert page.count("This panel could not be made: RuntimeError: a fault of ours") == 2
    assert "a fault of ours" in caplog.text


def test_objects_without_any_truth_have_no_errors_but_all_the_rest(tree: Tree) -> None:
    capture = ellipsoid_capture("pebble")
    for key in ("reference_c2w", "ground_truth_normals", "ground_truth_mesh"):
        object.__setattr__(capture, key, None)
    save_capture(tree.results / "captures/pebble" / NORMALS, capture)
    folder = tree.results / RUN
    poses = ["refine/refined_poses.json", "train/poses/iter_00000100.json"]
    poses.append(f"train/poses/{STEP}.json")
    for step, file in zip(("iter_00000000", "iter_00000100", STEP), poses, strict=True):
        words = ["evaluate", "--capture", tree.results / "captures/pebble" / NORMALS]
        words += ["--mesh", folder / f"meshes/{step}.ply"]
        words += ["--poses", folder / file]
        run_stage([*words, "--output", folder / f"metrics/{step}.json"])
    config = tree.config | {"objects": tree.config["objects"][:1]}
    page = page_of(Tree(tree.results, config), experiments=1)
    assert "Not available" not in page
    assert "no ground truth" in page
    scene = data_of(page)["scenes"]["part-pebble"]
    assert scene["reference"] is None
    assert scene["valueTop"] == 0
    assert [surface["key"] for surface in scene["surfaces"]][-1] == "free/300"
    assert "Rotation error, view by view" not in page
