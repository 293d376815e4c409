"""Initial poses from nothing: candidates for the poses of all views, best first."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from pmni.config.registration import RegisterSettings
from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.geometry.cameras import invert_rigid
from pmni.registration.multiview.assignment import reassign
from pmni.registration.multiview.averaging import average_rotations, average_translations
from pmni.registration.multiview.equal_steps import by_order, by_order_upright, by_slots
from pmni.registration.multiview.graph import PairGraph, pair_graph, reliable, spanning_trees
from pmni.registration.multiview.joint import refine_jointly
from pmni.registration.multiview.lookalikes import disentangled
from pmni.registration.multiview.objective import COARSE, FINE, Objective, compare, evaluate
from pmni.registration.multiview.pose_set import PoseSet, Sight, distinct, make_sight
from pmni.registration.multiview.turntable import common_axis, fit_turntable, restrict
from pmni.registration.pairwise.pairs import Hypotheses, no_progress, pair_hypotheses
from pmni.registration.parallel import side_by_side
from pmni.registration.views import Views, make_views

TREES = 60
"""Randomised spanning trees of a graph."""

ALIGNED, SETTLED = 6, 2
"""Of a graph's pose sets, those that are refined, and those whose views may move after that."""

ROUNDS = 2
"""Of moving single views and refining all, at most."""

MOST = 4
"""Candidates of a climb."""

IN_ORDER = 2
"""Pose sets in equal steps in the given order that are kept."""

LOOKALIKES = 3
"""Of the pose sets with views moved between sides that look alike, those that are kept."""

DISTINCT = 12.0
"""Degrees that two candidates differ by in at least one view."""

AXIS_SHARE = 0.5
"""Of the votes for the common axis: from here on it is worth looking for a turntable."""

TRANSLATION_SCALE = 0.0625
"""Object radii: scale of the robust averaging of translations."""

ORDER_REACH = 3
"""Places between neighbours in a given order."""

Kind = Literal["free", "axis", "steps", "ordered", "ordered steps"]


@dataclass(frozen=True)
class Candidate:
    """Poses of all views, and how well they explain the views."""

    c2w: Float[np.ndarray, "V 4 4"]
    """The object about the origin, its silhouettes' radius about OBJECT_RADIUS."""
    kind: Kind
    """What was assumed: nothing; a common axis; equal steps about it; that and the given order."""
    objective: Objective
    """Comparable among the candidates of one capture; best is the highest total."""

    @property
    def score(self) -> float:
        """`objective.total`."""
        return self.objective.total

    @property
    def confidence(self) -> Float[np.ndarray, " V"]:
        """Each view's own total."""
        return self.objective.views


@dataclass(frozen=True)
class Search:
    """What was found, and what it was found from."""

    views: Views
    graph: PairGraph
    candidates: list[Candidate]
    """Best first."""
    further: Callable[[], list[Candidate]]
    """More candidates, for the case that those do not convince."""
    turntable: bool
    """Whether pairs, or the settings, say that the views turn about one axis."""


@dataclass(frozen=True)
class Solution:
    """A refined pose set."""

    kind: Kind
    poses: PoseSet
    objective: Objective


Rung = Callable[[], list[Solution]]
"""One way of looking for pose sets."""


def search(
    capture: Capture,
    ray_distances: Float[np.ndarray, "V H W"],
    settings: RegisterSettings,
    device: torch.device,
    progress: Callable[[int, int], None] = no_progress,
) -> Search:
    """Candidates for the poses of all views, found from normals, masks and intrinsics alone.

    `ray_distances` are the integrated ones; `progress(pairs done, pairs)`. Raises InputError when
    views cannot be connected with the others.
    """
    views = make_views(capture, ray_distances, settings.seed, device)
    graph = scored_graph(views, pair_hypotheses(views, settings.seed, progress))
    _check_connected(capture, graph)
    return climbed(views, graph, settings)


def climbed(views: Views, graph: PairGraph, settings: RegisterSettings) -> Search:
    """The distinct best of the pose sets that all rungs of a ladder find, best first.

    The rungs: no assumption; a common axis, where the pairs suggest one; equal steps about it, in
    any order; equal steps in the views' order about any axis. Further ones: equal steps in their
    order by cameras held upright; where the pairs suggest no axis, views that are neighbours in
    their order, and views moved between sides of the object that look alike. What contradicts the
    settings' hints is left out.
    """
    sight = make_sight(views)
    found = _climb(sight, graph, settings)
    first, further = _candidates(sight, found), partial(_further, sight, graph, settings, found)
    return Search(views, graph, first, further, _turntable_likely(graph, settings))


def scored_graph(views: Views, hypotheses: Hypotheses) -> PairGraph:
    """The graph of all hypotheses, with their normalised scores."""
    pairs = hypotheses.pairs.cpu().numpy()
    R = hypotheses.rotations.double().cpu().numpy()
    t = hypotheses.translations.double().cpu().numpy()
    found = compare(views, pairs[:, 0], pairs[:, 1], R, t)
    scores = found.normalised().double().cpu().numpy()
    raw = hypotheses.scores.double().cpu().numpy()
    return pair_graph(len(views), pairs, R, t, scores, raw)


def _candidates(sight: Sight, found: list[Solution]) -> list[Candidate]:
    return [_candidate(sight, solution) for solution in _different(found)]


def _further(
    sight: Sight, graph: PairGraph, settings: RegisterSettings, found: list[Solution]
) -> list[Candidate]:
    """What the last rungs find."""
    rungs: list[Rung] = []
    if settings.turntable is not False:
        rungs.append(partial(_in_steps_by_order, sight, by_order_upright))
    if not (settings.ordered or _turntable_likely(graph, settings)):
        rungs.append(partial(solve, sight, _in_order(graph), settings.seed, "ordered"))
        rungs += [partial(_by_lookalikes, sight, graph, one) for one in found if one.kind == "free"]
    last = [solution for part in side_by_side(rungs) for solution in part]
    known = [one.poses.rotations for one in found]
    fresh = distinct(np.stack([*known, *(one.poses.rotations for one in last)]), DISTINCT)
    return _candidates(sight, [last[index - len(known)] for index in fresh if index >= len(known)])


def _climb(sight: Sight, graph: PairGraph, settings: RegisterSettings) -> list[Solution]:
    """What each rung of the ladder finds."""
    rungs: list[Rung] = []
    if settings.ordered:
        rungs.append(partial(solve, sight, _in_order(graph), settings.seed, "ordered"))
    else:
        rungs.append(partial(solve, sight, reliable(graph), settings.seed, "free"))
    if not settings.ordered and _turntable_likely(graph, settings):
        rungs.append(partial(_about_axis, sight, graph, settings.seed))
        rungs.append(partial(_in_steps, sight, graph, settings.seed))
    if settings.turntable is not False:
        rungs.append(partial(_in_steps_by_order, sight, by_order))
    found = [solution for part in side_by_side(rungs) for solution in part]
    if settings.turntable:
        found = [s for s in found if fit_turntable(s.poses.rotations).equal_steps] or found
    return found


def _in_steps_by_order(sight: Sight, sets: Callable[[Sight], list[PoseSet]]) -> list[Solution]:
    """The best of sets in which the views follow each other, refined."""
    refined = [refine_jointly(sight, poses) for poses in sets(sight)]
    best = _best(sight, refined, FINE, IN_ORDER)
    return [_finished(sight, poses, "ordered steps") for poses in best]


def _by_lookalikes(sight: Sight, graph: PairGraph, found: Solution) -> list[Solution]:
    """With views moved between sides of the object that look alike."""
    sets = disentangled(sight, reliable(graph), found.poses)[:LOOKALIKES]
    return [_finished(sight, poses, found.kind) for poses in sets]


def _turntable_likely(graph: PairGraph, settings: RegisterSettings) -> bool:
    """Whether it is worth looking for a common axis."""
    if settings.turntable is None:
        return common_axis(graph).share > AXIS_SHARE
    return settings.turntable


def _about_axis(sight: Sight, graph: PairGraph, seed: int) -> list[Solution]:
    """Pose sets that turn about the common axis."""
    restricted = restrict(graph, common_axis(graph).axis)
    connected = restricted.components().max(initial=0) == 0
    return solve(sight, reliable(restricted), seed, "axis") if connected else []


def _in_steps(sight: Sight, graph: PairGraph, seed: int) -> list[Solution]:
    """The views in equal steps about the common axis."""
    axis = common_axis(graph).axis
    poses = _settled(sight, restrict(graph, axis), by_slots(sight, axis, seed))
    return [_finished(sight, poses, "steps")]


def _in_order(graph: PairGraph) -> PairGraph:
    """The reliable ones of the pairs of views at most ORDER_REACH places apart, the last next to
    the first."""
    apart = np.diff(graph.pairs, axis=1)[:, 0]
    near = np.minimum(apart, graph.views - apart) <= ORDER_REACH
    return reliable(graph.keep(np.isfinite(graph.scores) & near[:, None]))


def solve(sight: Sight, graph: PairGraph, seed: int, kind: Kind) -> list[Solution]:
    """Pose sets from a graph's spanning trees: averaged, the best refined."""
    rotations = average_rotations(graph, spanning_trees(graph, TREES, seed))
    rotations = rotations[distinct(rotations, DISTINCT)]
    scale = TRANSLATION_SCALE * sight.views.radius
    translations = average_translations(graph, rotations, sight.centres, scale)
    ones = np.ones(graph.views)
    sets = [PoseSet(R, t, ones) for R, t in zip(rotations, translations, strict=True)]
    sets = _best(sight, sets, COARSE, ALIGNED)
    sets = [refine_jointly(sight, reassign(sight, graph, poses, False)[0]) for poses in sets]
    sets = [_settled(sight, graph, poses) for poses in _best(sight, sets, FINE, SETTLED)]
    return [_finished(sight, poses, kind) for poses in sets]


def _settled(sight: Sight, graph: PairGraph, poses: PoseSet) -> PoseSet:
    """After rounds of moving single views and refining all."""
    for _ in range(ROUNDS):
        poses, moved = reassign(sight, graph, poses, True)
        if moved == 0:
            break
        poses = refine_jointly(sight, poses)
    return poses


def _best(sight: Sight, sets: list[PoseSet], tolerance: float, count: int) -> list[PoseSet]:
    """The best pose sets that are distinct."""
    totals = [evaluate(sight, poses, tolerance).total for poses in sets]
    order = np.argsort(totals, kind="stable")[::-1]
    rotations = np.stack([sets[index].rotations for index in order])
    return [sets[order[index]] for index in distinct(rotations, DISTINCT)[:count]]


def _finished(sight: Sight, poses: PoseSet, kind: Kind) -> Solution:
    return Solution(kind, poses, evaluate(sight, poses))


def _different(solutions: list[Solution]) -> list[Solution]:
    """The best solutions that are distinct."""
    if not solutions:
        return []
    ordered = sorted(solutions, key=lambda solution: -solution.objective.total)
    rotations = np.stack([solution.poses.rotations for solution in ordered])
    return [ordered[index] for index in distinct(rotations, DISTINCT)[:MOST]]


def _candidate(sight: Sight, solution: Solution) -> Candidate:
    """In a world with the object about its origin."""
    poses = solution.poses
    centres = sight.centres * poses.scales[:, None]
    inwards = (centres - poses.translations)[..., None]
    middle = (poses.rotations.swapaxes(-1, -2) @ inwards)[..., 0].mean(0)
    w2c = np.tile(np.eye(4), (len(centres), 1, 1))
    w2c[:, :3, :3] = poses.rotations
    w2c[:, :3, 3] = poses.translations + poses.rotations @ middle
    return Candidate(invert_rigid(w2c), solution.kind, solution.objective)


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
