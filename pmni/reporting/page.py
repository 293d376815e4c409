"""The whole page: header, summary, one section an object, and all data inlined once."""

import base64
import functools
import gzip
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from pmni.config.reporting import ReportedRun, ReportSettings
from pmni.data.capture import Capture, load_capture
from pmni.evaluation.metrics import quantities
from pmni.reporting import charts, descriptions, images, metric_labels
from pmni.reporting.charts import Chart
from pmni.reporting.gallery import Gallery, error_scale, input_gallery
from pmni.reporting.header import build_header
from pmni.reporting.panels import Context, Panel, Problem, RunView, build_run, errors_of_results
from pmni.reporting.results_index import (
    Run,
    StageState,
    available_surfaces,
    display_path,
    load,
    stage_states,
)
from pmni.reporting.scene import Scene, build_scene
from pmni.reporting.summary import Summary, build_summary

TEMPLATES = Path(__file__).parent / "templates"
"""Folder of the page's templates, style and scripts."""

THREE = Path(__file__).parent / "three/three.min.js"
"""three.js, bundled by `make viewer`."""

ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
SCENE_ALIGNMENT = (
    "Each surface and its cameras are shown in the alignment of their evaluation; the initial "
    "cameras are aligned with the reference. Without ground truth, each experiment is shown in its "
    "own frame."
)
"""Explanation of the frame of the 3D views, for readers of the page."""
SCRIPTS = ("unpack.js", "renderer.js", "cameras.js", "viewer.js", "charts.js", "page.js")
"""Scripts of the page, in the order in which they run."""


@dataclass
class ObjectView:
    """Everything that the page shows of one object."""

    name: str
    anchor: str
    facts: list[str]
    scene: Panel[Scene]
    inputs: list[tuple[str, Panel[Gallery]]]
    """Name and images of each input normal set."""
    seconds: str
    """Key of the chart of seconds."""
    runs: list[RunView]


@dataclass
class PageData:
    """What the scripts draw."""

    charts: dict[str, Chart] = field(default_factory=dict)
    scenes: dict[str, dict[str, Any]] = field(default_factory=dict)
    blobs: dict[str, str] = field(default_factory=dict)

    def add_chart(self, key: str, chart: Chart) -> str:
        """Put a chart among the data; gives its key."""
        self.charts[key] = chart
        return key

    def add(self, other: "PageData") -> None:
        """Put in all that another one holds."""
        self.charts |= other.charts
        self.scenes |= other.scenes
        self.blobs |= other.blobs


def anchor(name: str) -> str:
    """An HTML id."""
    return "part-" + re.sub(r"[^A-Za-z0-9_-]", "-", name)


def build_page(results: Path, described: ReportedRun, settings: ReportSettings) -> str:
    """The report as one HTML text. What is missing or damaged in `results` is named in it."""
    context = Context(results, Path(described.logs), settings)
    runs = [Run(results, o, e) for o in described.objects for e in described.experiments]
    states = {run.key: stage_states(run) for run in runs}
    data = PageData()
    objects = []
    by_object = [[run for run in runs if run.entry == entry] for entry in described.objects]
    with ThreadPoolExecutor() as pool:
        for section, own in pool.map(lambda runs: build_object(context, runs, states), by_object):
            objects.append(section)
            data.add(own)
    summary = build_summary(results, runs, states, anchor)
    data.blobs |= _libraries()
    return _render(
        objects=objects,
        summary=summary,
        header=build_header(runs, states),
        kinds={
            e.name: descriptions.pose_kind(e.registration_method) for e in described.experiments
        },
        experiments=described.experiments,
        data=data,
        scene_alignment=SCENE_ALIGNMENT,
        problems_of_summary=[
            f"{display_path(error.path, results)}: {error.reason}" for error in summary.problems
        ],
    )


def _render(objects: list[ObjectView], summary: Summary, data: PageData, **more: Any) -> str:
    content = {
        "charts": data.charts,
        "scenes": data.scenes,
        "distanceColours": images.colour_table(images.DISTANCE_COLOURS),
    }
    return ENVIRONMENT.get_template("page.html.j2").render(
        objects=objects,
        summary=summary,
        blobs=data.blobs,
        # "<" ends a script early in nothing but a string, where its escape means the same
        data=json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        script="\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS),
        distance_ramp=images.colour_ramp(images.DISTANCE_COLOURS),
        quantities=quantities(),
        alignments=metric_labels.ALIGNMENTS,
        **more,
    )


def build_object(
    context: Context, runs: list[Run], states: dict[str, dict[str, StageState]]
) -> tuple[ObjectView, PageData]:
    """One object's section, and its charts, scenes and meshes."""
    name, data = runs[0].entry.name, PageData()
    captures: dict[str, Capture] = {}
    inputs: list[tuple[str, Panel[Gallery]]] = []
    for run in {run.normals: run for run in runs}.values():
        panel, capture = _inputs(context, run, states[run.key])
        inputs.append((run.normals, panel))
        if capture is not None:
            captures[run.normals] = capture
    first = next(iter(captures.values()), None)
    scene = _scene(context, runs, states, first, data)
    top = error_scale(errors_of_results(runs))
    views = [
        build_run(
            context, run, states[run.key], captures.get(run.normals), top, anchor(run.key),
            data.add_chart,
        )
        for run in runs
    ]  # fmt: skip
    if scene.content is not None:
        for view in views:
            view.surfaces = [
                int(surface["iteration"])
                for surface in scene.content.content["surfaces"]
                if surface["group"] == view.name
            ]
    seconds = charts.seconds_chart({run.experiment.name: states[run.key] for run in runs})
    section = ObjectView(
        name=name,
        anchor=anchor(name),
        facts=_facts(runs[0], first),
        scene=scene,
        inputs=inputs,
        seconds=data.add_chart(f"{name}/seconds", seconds) if seconds["traces"] else "",
        runs=views,
    )
    return section, data


def _inputs(
    context: Context, run: Run, states: dict[str, StageState]
) -> tuple[Panel[Gallery], Capture | None]:
    capture, problems = context.attempt(
        lambda: load(run.capture.archive, lambda path: load_capture(path.parent)),
        run,
        states["prepare"],
    )
    if capture is None:
        return Panel(None, problems), None
    gallery, problems = context.attempt(
        lambda: input_gallery(capture, run.integration.ray_distances, context.settings),
        run,
        states["prepare"],
    )
    if gallery is not None:
        problems = [context.problem(error, run, "integrate") for error in gallery.problems]
    return Panel(gallery, problems), capture


def _scene(
    context: Context,
    runs: list[Run],
    states: dict[str, dict[str, StageState]],
    capture: Capture | None,
    data: PageData,
) -> Panel[Scene]:
    """The 3D scene of an object, from all surfaces that count."""
    available = {run: available_surfaces(run, states[run.key]) for run in runs}
    shown_runs = {run: steps for run, steps in available.items() if steps}
    if capture is None:
        return Panel(None, [Problem("There is no capture, so that nothing can be shown in 3D.")])
    name = anchor(runs[0].entry.name)
    scene: Scene | None
    scene, problems = context.attempt(
        lambda: build_scene(capture, shown_runs, context.settings, name),
        runs[0],
        StageState("mesh", "done"),
    )
    if scene is None:
        return Panel(None, problems)
    data.scenes[name] = scene.content
    data.blobs |= scene.blobs
    problems = [
        Problem(f"{display_path(error.path, context.results)}: {error.reason}")
        for error in scene.problems
    ]
    for run in runs:
        stage = states[run.key]["mesh"]
        if stage.state != "done":
            lacking = "only the refined surface" if run in shown_runs else "no surface"
            text = f"{run.experiment.name}: {lacking}, as stage {stage.cause} did not finish"
            problems.append(Problem(text, context.tails(stage.cause, run)))
    return Panel(scene, problems)


def _facts(run: Run, capture: Capture | None) -> list[str]:
    facts = [run.entry.dataset]
    if capture is None:
        return facts
    height, width = capture.masks.shape[1:]
    facts += [f"{len(capture.views)} views", f"{width} × {height} px"]
    if capture.ground_truth_mesh is not None:
        vertices = capture.ground_truth_mesh.vertices
        extent = vertices.max(0) - vertices.min(0)
        facts.append(" × ".join(f"{side:.0f}" for side in extent) + " mm")
    truth = [
        word
        for word, there in (
            ("surface", capture.ground_truth_mesh is not None),
            ("normals", capture.ground_truth_normals is not None),
            ("poses", capture.reference_c2w is not None),
        )
        if there
    ]
    facts.append("ground truth: " + ", ".join(truth) if truth else "no ground truth")
    return facts


@functools.cache
def _libraries() -> dict[str, str]:
    """Scripts for charts and for 3D, gzipped, in base64; the page runs each when it needs it."""
    scripts = {"plotly": get_plotlyjs(), "three": THREE.read_text(encoding="utf-8")}
    return {
        name: base64.b64encode(gzip.compress(script.encode(), 6, mtime=0)).decode()
        for name, script in scripts.items()
    }
