"""Initial poses from nothing: candidates for the poses of all views, best first."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from pmni.cameras import invert_rigid
from pmni.capture.capture import Capture
from pmni.config.registration import RegisterSettings
from pmni.errors import InputError
from pmni.registration.assignment import compare, differences_deg, evaluate, reassign
from pmni.registration.averaging import average_rotations, average_translations
from pmni.registration.graph import PairGraph, pair_graph, reliable, spanning_trees
from pmni.registration.joint import refine_jointly
from pmni.registration.pairs import Hypotheses, no_progress, pair_hypotheses
from pmni.registration.turntable import common_axis, fit_turntable, restrict
from pmni.registration.views import Views, make_views

TREES = 60
"""Randomised spanning trees of a graph."""

KEPT = 3
"""Of a graph's pose sets, those that are refined."""

ROUNDS = 4
"""Of moving single views and refining all, at most."""

MOST = 4
"""Candidates that are returned."""

DISTINCT = 12.0
"""Degrees that two candidates differ by in at least one view."""

AXIS_SHARE = 0.5
"""Of the votes for the common axis: from here on it is worth looking for a turntable."""

TRANSLATION_SCALE = 0.0625
"""Object radii: scale of the robust averaging of translations."""


@dataclass(frozen=True)
class Candidate:
    """Poses of all views, and how well they explain the views."""

    c2w: Float[np.ndarray, "V 4 4"]
    """The object about the origin, its silhouettes' radius about OBJECT_RADIUS."""
    kind: str
    """How it was found."""
    score: float
    """`Objective.total`; comparable among the candidates of one capture."""
    near: float
    far: float
    """The parts of the score: see `Objective`."""
    confidence: Float[np.ndarray, "V"]
    """Each view's own score."""


@dataclass(frozen=True)
class _Solution:
    kind: str
    rotations: Float[np.ndarray, "V 3 3"]
    translations: Float[np.ndarray, "V 3"]
    score: float


def free_poses(
    capture: Capture,
    ray_distances: Float[np.ndarray, "V H W"],
    settings: RegisterSettings,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] = no_progress,
) -> list[Candidate]:
    """Candidates for the poses of all views, found from normals, masks and intrinsics alone.

    `ray_distances` are the integrated ones. `progress(pairs done, pairs)`. Raises InputError when
    views cannot be connected with the others.
    """
    views = make_views(capture, ray_distances, settings.seed, device or torch.device("cpu"))
    hypotheses = pair_hypotheses(views, settings.seed, progress)
    graph = scored_graph(views, hypotheses)
    _check_connected(capture, graph)
    return candidates(views, graph, settings)


def scored_graph(views: Views, hypotheses: Hypotheses) -> PairGraph:
    """The graph of all hypotheses, with their normalised scores."""
    pairs = hypotheses.pairs.cpu().numpy()
    R = hypotheses.rotations.double().cpu().numpy()
    t = hypotheses.translations.double().cpu().numpy()
    found = compare(views, pairs[:, 0], pairs[:, 1], R, t)
    scores = found.normalised().double().cpu().numpy()
    raw = hypotheses.scores.double().cpu().numpy()
    return pair_graph(len(views), pairs, R, t, scores, raw)


def candidates(views: Views, graph: PairGraph, settings: RegisterSettings) -> list[Candidate]:
    """The distinct best of the pose sets that all rungs of the ladder find, best first."""
    solutions = solve(views, reliable(graph), settings.seed, "free")
    common = common_axis(graph)
    if settings.turntable is not False and common.share > AXIS_SHARE:
        restricted = restrict(graph, common.axis)
        if restricted.components().max(initial=0) == 0:
            solutions += solve(views, reliable(restricted), settings.seed, "axis")
    solutions += [s for s in (_snapped(views, solution) for solution in solutions) if s]
    return [_candidate(views, solution) for solution in _best(solutions, MOST)]


def solve(views: Views, graph: PairGraph, seed: int, kind: str) -> list[_Solution]:
    """Pose sets from a graph's spanning trees: averaged, the best refined."""
    trees = spanning_trees(graph, TREES, seed)
    rotations = _distinct(average_rotations(graph, trees))
    centres = views.centres.double().cpu().numpy()
    scale = TRANSLATION_SCALE * views.radius
    translations = average_translations(graph, rotations, centres, scale)
    order = np.argsort(-evaluate(views, rotations, translations).total, kind="stable")
    return [
        _refined(views, graph, rotations[index], translations[index], kind)
        for index in order[:KEPT]
    ]


def _refined(
    views: Views,
    graph: PairGraph,
    rotations: Float[np.ndarray, "V 3 3"],
    translations: Float[np.ndarray, "V 3"],
    kind: str,
) -> _Solution:
    """After rounds of moving single views and refining all."""
    for _ in range(ROUNDS):
        rotations, translations, moved = reassign(views, graph, rotations, translations)
        rotations, translations = refine_jointly(views, rotations, translations)
        if moved == 0:
            break
    return _scored(views, rotations, translations, kind)


def _scored(
    views: Views,
    rotations: Float[np.ndarray, "V 3 3"],
    translations: Float[np.ndarray, "V 3"],
    kind: str,
) -> _Solution:
    objective = evaluate(views, rotations[None], translations[None])
    return _Solution(kind, rotations, translations, float(objective.total[0]))


def _snapped(views: Views, solution: _Solution) -> _Solution | None:
    """On a turntable of equal steps, if it is one."""
    table = fit_turntable(solution.rotations)
    if not table.equal_steps:
        return None
    rotations = table.snapped()
    centres = views.centres.double().cpu().numpy()
    about = solution.translations - centres
    turn = rotations @ solution.rotations.swapaxes(-1, -2)
    translations = (turn @ about[..., None])[..., 0] + centres
    return _scored(views, rotations, translations, solution.kind + ", equal steps")


def _distinct(rotations: Float[np.ndarray, "B V 3 3"]) -> Float[np.ndarray, "D V 3 3"]:
    """Without those that are the same as an earlier one, up to a few degrees."""
    kept: list[np.ndarray] = []
    for rotation in rotations:
        if all(differences_deg(rotation, other).max() > DISTINCT for other in kept):
            kept.append(rotation)
    return np.stack(kept)


def _best(solutions: list[_Solution], count: int) -> list[_Solution]:
    """The best distinct solutions."""
    kept: list[_Solution] = []
    for solution in sorted(solutions, key=lambda solution: -solution.score):
        if all(differences_deg(solution.rotations, k.rotations).max() > DISTINCT for k in kept):
            kept.append(solution)
    return kept[:count]


def _candidate(views: Views, solution: _Solution) -> Candidate:
    """In a world with the object about its origin."""
    objective = evaluate(views, solution.rotations[None], solution.translations[None])
    centres = views.centres.double().cpu().numpy()
    inwards = (centres - solution.translations)[..., None]
    middle = (solution.rotations.swapaxes(-1, -2) @ inwards)[..., 0].mean(0)
    w2c = np.tile(np.eye(4), (len(centres), 1, 1))
    w2c[:, :3, :3] = solution.rotations
    w2c[:, :3, 3] = solution.translations + solution.rotations @ middle
    return Candidate(
        invert_rigid(w2c),
        solution.kind,
        float(objective.total[0]),
        float(objective.near[0]),
        float(objective.far[0]),
        objective.views[0],
    )


def _check_connected(capture: Capture, graph: PairGraph) -> None:
    parts = graph.components()
    if parts.max(initial=0) == 0:
        return
    largest = np.bincount(parts).argmax()
    lost = ", ".join(capture.views[index] for index in np.flatnonzero(parts != largest))
    raise InputError(
        f"{capture.name}: view {lost}: no pose relative to the other views was found; "
        "leave the view out or give the poses"
    )
