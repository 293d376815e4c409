"""Candidates for the poses of all views, found by several strategies from the graph of pairs.

Without assumption; about a common axis, where the pairs suggest one; at equal steps about it, in
any order; at equal steps in the given order about any axis. Further strategies, for the case that
those candidates do not convince: equal steps in the given order by cameras that are held upright;
and where the pairs suggest no axis, views that are neighbours in their order, and views moved
between similar sides of the object.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float

from pmni.data.views import Views
from pmni.errors import InputError
from pmni.geometry.cameras import invert_rigid
from pmni.registration.multiview.averaging import average_rotations, average_translations
from pmni.registration.multiview.graph import (
    PairGraph,
    pair_graph,
    reliable_subgraph,
    spanning_trees,
)
from pmni.registration.multiview.joint_alignment import align_jointly
from pmni.registration.multiview.objective import Objective, compare, evaluate_poses
from pmni.registration.multiview.pose_set import PairingContext, PoseSet, distinct
from pmni.registration.multiview.reassignment import reassign_views
from pmni.registration.multiview.turntable import common_axis, fit_turntable, restrict_to_axis
from pmni.registration.multiview.uniform_turntable import (
    in_given_order,
    in_given_order_upright,
    order_views,
)
from pmni.registration.multiview.view_ambiguity import resolve_ambiguity
from pmni.registration.pairwise.hypotheses import Hypotheses
from pmni.registration.parallel import parallel_map

Assumption = Literal["none", "axis", "uniform", "ordered", "ordered uniform"]
"""What a strategy assumes: nothing; a common axis; equal steps about it; the given order; the given
order in equal steps."""


@dataclass(frozen=True)
class Solution:
    """An aligned pose set, and how well it explains the views."""

    assumption: Assumption
    poses: PoseSet
    objective: Objective


@dataclass(frozen=True)
class Candidate:
    """Poses of all views, and how well they explain the views."""

    c2w: Float[np.ndarray, "V 4 4"]
    """The object is about the origin, with a silhouette of about the radius OBJECT_RADIUS."""
    assumption: Assumption
    objective: Objective
    """Comparable among the candidates of one capture; the best has the highest total."""


Strategy = Callable[[], list[Solution]]


@dataclass(frozen=True)
class Strategies:
    """The strategies for one capture. `context` is unscaled."""

    context: PairingContext
    graph: PairGraph

    def run(self) -> list[Solution]:
        """The solutions of the first strategies."""
        settings, solutions = self.context.settings, parallel_map(self._first())
        found = [solution for part in solutions for solution in part]
        if settings.turntable:
            found = [solution for solution in found if self._is_uniform(solution)] or found
        return found

    def run_further(self, solutions: list[Solution]) -> list[Solution]:
        """Solutions of the further strategies that differ from all `solutions`."""
        parts = parallel_map(self._further(solutions))
        further = [solution for part in parts for solution in part]
        rotations = [solution.poses.rotations for solution in (*solutions, *further)]
        separation = self.context.settings.multiview.separation_deg
        count = len(solutions)
        kept = distinct(np.stack(rotations), separation)
        return [further[index - count] for index in kept if index >= count]

    def turntable_likely(self) -> bool:
        """Whether pairs, or the settings, suggest that the views rotate about one axis."""
        settings = self.context.settings
        if settings.turntable is not None:
            return settings.turntable
        turntable = settings.multiview.turntable
        return common_axis(self.graph, turntable).share > turntable.min_axis_share

    def _first(self) -> list[Strategy]:
        settings = self.context.settings
        if settings.ordered:
            strategies: list[Strategy] = [self._in_order()]
        else:
            graph = reliable_subgraph(self.graph, settings.multiview.graph)
            strategies = [partial(solve, self.context, graph, "none")]
            if self.turntable_likely():
                strategies += [self._about_axis, self._uniform]
        if settings.turntable is not False:
            strategies.append(partial(self._ordered_uniform, in_given_order))
        return strategies

    def _further(self, solutions: list[Solution]) -> list[Strategy]:
        settings = self.context.settings
        strategies: list[Strategy] = []
        if settings.turntable is not False:
            strategies.append(partial(self._ordered_uniform, in_given_order_upright))
        if not (settings.ordered or self.turntable_likely()):
            strategies.append(self._in_order())
            strategies += [
                partial(self._unambiguous, solution)
                for solution in solutions
                if solution.assumption == "none"
            ]
        return strategies

    def _in_order(self) -> Strategy:
        """Views that are neighbours in their order, the last next to the first."""
        multiview, graph = self.context.settings.multiview, self.graph
        apart = np.diff(graph.pairs, axis=1)[:, 0]
        near = np.minimum(apart, graph.views - apart) <= multiview.order_reach
        neighbours = graph.subgraph(np.isfinite(graph.scores) & near[:, None])
        neighbours = reliable_subgraph(neighbours, multiview.graph)
        return partial(solve, self.context, neighbours, "ordered")

    def _about_axis(self) -> list[Solution]:
        """Pose sets that rotate about the common axis."""
        settings = self.context.settings.multiview
        axis = common_axis(self.graph, settings.turntable).axis
        restricted = restrict_to_axis(self.graph, axis, settings.turntable)
        if restricted.components().max(initial=0) > 0:
            return []
        return solve(self.context, reliable_subgraph(restricted, settings.graph), "axis")

    def _uniform(self) -> list[Solution]:
        """The views at equal steps about the common axis."""
        settings = self.context.settings
        turntable = settings.multiview.turntable
        axis = common_axis(self.graph, turntable).axis
        restricted = restrict_to_axis(self.graph, axis, turntable)
        poses = order_views(self.context, axis, settings.seed)
        return [_solution(self.context, _reassigned(self.context, restricted, poses), "uniform")]

    def _ordered_uniform(
        self, pose_sets: Callable[[PairingContext], list[PoseSet]]
    ) -> list[Solution]:
        """The best pose sets at equal steps in the given order, aligned."""
        multiview = self.context.settings.multiview
        aligned = [align_jointly(self.context, poses) for poses in pose_sets(self.context)]
        tolerance = multiview.objective.fine_tolerance
        best = _best(self.context, aligned, tolerance, multiview.ordered_sets)
        return [_solution(self.context, poses, "ordered uniform") for poses in best]

    def _unambiguous(self, solution: Solution) -> list[Solution]:
        """Pose sets with views moved between sides of the object that look alike."""
        multiview = self.context.settings.multiview
        graph = reliable_subgraph(self.graph, multiview.graph)
        pose_sets = resolve_ambiguity(self.context, graph, solution.poses)
        pose_sets = pose_sets[: multiview.ambiguous_sets]
        return [_solution(self.context, poses, solution.assumption) for poses in pose_sets]

    def _is_uniform(self, solution: Solution) -> bool:
        turntable = self.context.settings.multiview.turntable
        return fit_turntable(solution.poses.rotations, turntable).is_uniform


def scored_graph(context: PairingContext, hypotheses: Hypotheses) -> PairGraph:
    """The graph of all hypotheses, with their normalised scores."""
    pairs = hypotheses.pairs.cpu().numpy()
    R = hypotheses.rotations.double().cpu().numpy()
    t = hypotheses.translations.double().cpu().numpy()
    overlap = compare(context, pairs[:, 0], pairs[:, 1], R, t)
    scores = overlap.normalised().double().cpu().numpy()
    raw = hypotheses.scores.double().cpu().numpy()
    return pair_graph(len(context.views), pairs, R, t, scores, raw)


def check_connected(graph: PairGraph, views: Views) -> None:
    """Raise InputError naming the views that have no relative pose to the others."""
    parts = graph.components()
    if parts.max(initial=0) == 0:
        return
    largest = np.bincount(parts).argmax()
    lost = ", ".join(views.names[index] for index in np.flatnonzero(parts != largest))
    raise InputError(
        f"{views.object_name}: view {lost}: no pose relative to the other views was found; "
        "leave the view out or give the poses"
    )


def candidates_of(context: PairingContext, solutions: list[Solution]) -> list[Candidate]:
    """The best distinct solutions as candidates, best first."""
    if not solutions:
        return []
    multiview = context.settings.multiview
    ordered = sorted(solutions, key=lambda solution: -solution.objective.total)
    rotations = np.stack([solution.poses.rotations for solution in ordered])
    kept = distinct(rotations, multiview.separation_deg)[: multiview.candidates]
    return [_candidate(context, ordered[index]) for index in kept]


def solve(context: PairingContext, graph: PairGraph, assumption: Assumption) -> list[Solution]:
    """Solutions from a graph's spanning trees: averaged, the best aligned, views reassigned."""
    settings = context.settings.multiview
    objective = settings.objective
    trees = spanning_trees(graph, settings.graph, context.settings.seed)
    rotations = average_rotations(graph, trees)
    rotations = rotations[distinct(rotations, settings.separation_deg)]
    scale = settings.graph.translation_scale * context.views.radius
    translations = average_translations(graph, rotations, context.centres, scale)
    ones = np.ones(graph.views)
    sets = [PoseSet(R, t, ones) for R, t in zip(rotations, translations, strict=True)]
    sets = _best(context, sets, objective.coarse_tolerance, settings.aligned_sets)
    sets = [
        align_jointly(context, reassign_views(context, graph, poses, False)[0]) for poses in sets
    ]
    sets = _best(context, sets, objective.fine_tolerance, settings.reassigned_sets)
    return [_solution(context, _reassigned(context, graph, poses), assumption) for poses in sets]


def _reassigned(context: PairingContext, graph: PairGraph, poses: PoseSet) -> PoseSet:
    """Poses after rounds of moving single views and aligning all."""
    for _ in range(context.settings.multiview.reassignment_rounds):
        poses, moved = reassign_views(context, graph, poses, True)
        if moved == 0:
            break
        poses = align_jointly(context, poses)
    return poses


def _best(
    context: PairingContext, sets: list[PoseSet], tolerance: float, count: int
) -> list[PoseSet]:
    """The best distinct pose sets by their objective."""
    totals = [evaluate_poses(context, poses, tolerance).total for poses in sets]
    order = np.argsort(totals, kind="stable")[::-1]
    rotations = np.stack([sets[index].rotations for index in order])
    kept = distinct(rotations, context.settings.multiview.separation_deg)[:count]
    return [sets[order[index]] for index in kept]


def _solution(context: PairingContext, poses: PoseSet, assumption: Assumption) -> Solution:
    return Solution(assumption, poses, evaluate_poses(context, poses))


def _candidate(context: PairingContext, solution: Solution) -> Candidate:
    """The solution as camera-to-world poses in a world with the object about its origin."""
    poses = solution.poses
    centres = context.centres * poses.scales[:, None]
    inwards = (centres - poses.translations)[..., None]
    middle = (poses.rotations.swapaxes(-1, -2) @ inwards)[..., 0].mean(0)
    w2c = np.tile(np.eye(4), (len(centres), 1, 1))
    w2c[:, :3, :3] = poses.rotations
    w2c[:, :3, 3] = poses.translations + poses.rotations @ middle
    return Candidate(invert_rigid(w2c), solution.assumption, solution.objective)
