"""Poses found from normals, masks and intrinsics alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from pmni.config.registration import RegisterSettings
from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.geometry.poses import Poses
from pmni.registration.methods.method import Method


def find(
    capture: Capture,
    ray_distances: Float[np.ndarray, "V H W"] | None,
    settings: RegisterSettings,
    progress: Callable[[str], None],
) -> Poses:
    """Poses from pairs of views, made consistent, and tested against one common surface.

    Raises InputError without ray distances or when a view cannot be connected with the others, and
    ConvergenceError when the views do not determine the poses.
    """
    from pmni.data.views import Views
    from pmni.registration.multiview.pose_set import pairing_context
    from pmni.registration.multiview.strategies import (
        Strategies,
        candidates_of,
        check_connected,
        scored_graph,
    )
    from pmni.registration.pairwise.hypotheses import pair_hypotheses
    from pmni.registration.verification.verifier import Verifier
    from pmni.registration.working_views import make_working_views

    if ray_distances is None:
        raise InputError(f"{capture.name}: method 'from_scratch' needs --ray-distances")
    views = Views.of(capture, ray_distances)
    working_views = make_working_views(views, settings.working_views, settings.seed, views.device)
    context = pairing_context(working_views, settings)
    progress(f"aligning {len(views) * (len(views) - 1) // 2} pairs of views")
    graph = scored_graph(context, pair_hypotheses(working_views, settings.pairwise))
    check_connected(graph, views)
    strategies = Strategies(context, graph)
    progress("combining pairs to poses of all views")
    solutions = strategies.run()
    candidates = candidates_of(context, solutions)
    progress(f"testing {len(candidates)} candidates against a common surface")
    verifier = Verifier(capture, working_views, graph, settings)
    verified = verifier.best(
        candidates,
        lambda: candidates_of(context, strategies.run_further(solutions)),
        strategies.turntable_likely(),
    )
    consistency = verified.normal_consistency
    information: dict[str, Any] = {
        "assumption": verified.assumption,
        "candidates": len(candidates),
        "confidence": round(float(consistency.mean()), 4),
        "margin": verified.margin,
        "contour_ratio": verified.contour_ratio,
        "neighbour_inconsistency": verified.neighbour_inconsistency,
        "symmetry_loss": verified.symmetry_loss,
        "rotational_symmetry_score": verifier.rotational_symmetry_score,
        "normal_consistency": dict(zip(capture.views, consistency.round(4).tolist(), strict=True)),
    }
    return Poses(capture.views, verified.c2w, information)


METHOD = Method(find, needs_ray_distances=True)
