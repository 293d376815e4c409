"""Poses from nothing, put to the test by a common surface: found, put right, or refused."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from fixtures.working_views import context_of, working_views
from scipy.spatial.transform import Rotation

from pmni.cli.main import main
from pmni.config.integration import IntegrateSettings
from pmni.config.registration import AmbiguitySettings, RegisterSettings
from pmni.data.capture import Capture, save_capture
from pmni.errors import ConvergenceError, InputError, LostSurfaceError
from pmni.geometry.cameras import look_at, turntable
from pmni.geometry.transforms import rotation_angle_deg
from pmni.integration.integrate import integrate
from pmni.io.poses import read_poses
from pmni.registration.multiview.graph import PairGraph, pair_graph, reliable_subgraph
from pmni.registration.multiview.pose_set import PairingContext, PoseSet
from pmni.registration.multiview.strategies import (
    Candidate,
    Strategies,
    candidates_of,
    scored_graph,
)
from pmni.registration.multiview.view_ambiguity import (
    SymmetryTransform,
    resolve_ambiguity,
    symmetry_rotations,
    transform_views,
)
from pmni.registration.pairwise.hypotheses import pair_hypotheses
from pmni.registration.register import register
from pmni.registration.verification.neighbour_inconsistency import (
    inconsistency_of,
    normal_differences,
)
from pmni.registration.verification.trial import (
    Trial,
    contour_distances,
    contour_ratio,
    differing_views,
    margin_over,
)
from pmni.registration.verification.verifier import COARSE_PLAN, Verifier
from pmni.synthetic.analytic_surface import AnalyticSurface
from pmni.synthetic.rendering import render
from pmni.synthetic.scenes import HALF_SIDE, SCENES
from pmni.synthetic.shapes import Shape, capsule, cylinder, union
from pmni.synthetic.tessellation import tessellate

VIEWS, HEIGHT, WIDTH = 10, 100, 120
K = np.array([[740.0, 0, 59.5], [0, 740.0, 49.5], [0, 0, 1]])
SETTINGS = RegisterSettings(method="from_scratch")


def cameras() -> np.ndarray:
    """Hand-held, once round the object, in no order."""
    rng = np.random.default_rng(3)
    c2w = []
    for view in rng.permutation(VIEWS):
        azimuth = 2 * np.pi * (view + rng.uniform(-0.2, 0.2)) / VIEWS
        elevation = np.deg2rad(rng.uniform(10, 45))
        flat = np.cos(elevation) * np.array([np.cos(azimuth), np.sin(azimuth)])
        position = 15 * (1 + 0.01 * rng.normal()) * np.array([*flat, np.sin(elevation)])
        c2w.append(look_at(position, np.zeros(3), roll=float(rng.normal(0, 0.2))))
    return np.stack(c2w)


def views_of(name: str, shape: Shape) -> tuple[Capture, np.ndarray]:
    """A capture with exact normals, and its integrated ray distances."""
    solid = tessellate(shape, HALF_SIDE, 4000).scaled_to(0.8)
    images = list(render(AnalyticSurface(solid), K, cameras(), HEIGHT, WIDTH))
    capture = Capture(
        name=name,
        views=tuple(f"{view:02d}" for view in range(VIEWS)),
        normals=np.stack([image.normals for image in images]),
        masks=np.stack([image.mask for image in images]),
        intrinsics=np.stack([K] * VIEWS),
    )
    return capture, integrate(capture, IntegrateSettings()).ray_distances


@cache
def duck() -> tuple[Capture, np.ndarray]:
    """A smooth object without symmetry. Its reference poses are those of other views: they play no
    part."""
    capture, distances = views_of("duck", SCENES["blob"]())
    return replace(capture, reference_c2w=cameras()[::-1].copy(), scale=100.0), distances


@cache
def searched() -> tuple[PairingContext, PairGraph, list[Candidate]]:
    """The context, the graph of pairs, and the candidates of the first strategies."""
    views = working_views(*duck())
    context = context_of(views)
    graph = scored_graph(context, pair_hypotheses(views, SETTINGS.pairwise))
    return context, graph, candidates_of(context, Strategies(context, graph).run())


def rotation_errors(c2w: np.ndarray) -> np.ndarray:
    """Degrees, after the rotation of the world that fits best."""
    reference = cameras()
    mean, _ = Rotation.align_vectors(
        reference[:, :3, :3].transpose(0, 2, 1).reshape(-1, 3),
        c2w[:, :3, :3].transpose(0, 2, 1).reshape(-1, 3),
    )
    return rotation_angle_deg(mean.as_matrix() @ c2w[:, :3, :3], reference[:, :3, :3])


class TestFound:
    def test_stage_finds_all_poses_and_says_how_sure_it_is(self, tmp_path, monkeypatch):
        _, graph, candidates = searched()
        strategies = "pmni.registration.multiview.strategies"
        monkeypatch.setattr(f"{strategies}.candidates_of", lambda *_: candidates)
        monkeypatch.setattr(f"{strategies}.scored_graph", lambda *_: graph)
        monkeypatch.setattr(f"{strategies}.Strategies.run", lambda _: [])
        hypotheses = "pmni.registration.pairwise.hypotheses.pair_hypotheses"
        monkeypatch.setattr(hypotheses, lambda *_: None)
        capture, distances = duck()
        save_capture(tmp_path / "capture", capture)
        np.savez(tmp_path / "ray_distance.npz", ray_distance=distances, views=capture.views)
        words = ["register", "--capture", str(tmp_path / "capture"), "--settings",
                 json.dumps({"method": "from_scratch"}), "--ray-distances", str(tmp_path),
                 "--output", str(tmp_path / "out")]  # fmt: skip
        assert main(words) == 0
        poses = read_poses(tmp_path / "out" / "initial_poses.json")
        assert rotation_errors(poses.c2w).max() < 3
        told = poses.information
        consistency = told["normal_consistency"]
        assert (told["method"], set(consistency)) == ("from_scratch", set(capture.views))
        assert told["confidence"] == pytest.approx(np.mean(list(consistency.values())), abs=1e-3)
        assert told["confidence"] > 0.8
        assert told["symmetry_loss"] > 0.1
        assert told["neighbour_inconsistency"] < 1.2

    def test_needs_ray_distances(self):
        with pytest.raises(InputError, match="duck: method 'from_scratch' needs --ray-distances"):
            register(duck()[0], None, SETTINGS)


@pytest.fixture
def verifier() -> Verifier:
    context, graph, _ = searched()
    return Verifier(duck()[0], context.views, graph, SETTINGS)


@pytest.fixture
def start() -> np.ndarray:
    return searched()[2][0].c2w


def candidate(assumption: str, c2w: np.ndarray) -> Candidate:
    return replace(searched()[2][0], assumption=assumption, c2w=c2w)


def with_verification(**changes: int) -> RegisterSettings:
    verification = SETTINGS.verification.model_copy(update=changes)
    return SETTINGS.model_copy(update={"verification": verification})


def turned(vector: list[float]) -> np.ndarray:
    """About the object."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec(vector).as_matrix()
    return motion


def quarter_turned(c2w: np.ndarray, views: int) -> np.ndarray:
    """With the first views turned by 90 degrees about the object."""
    moved = c2w.copy()
    moved[:views] = turned([0, 0, np.pi / 2]) @ moved[:views]
    return moved


class TestPutRight:
    def test_a_view_at_the_back_returns_to_its_place(self, verifier, start):
        flipped = start.copy()
        flipped[4] = np.diag([-1.0, -1.0, 1.0, 1.0]) @ flipped[4]
        assert rotation_errors(flipped).max() > 60
        found = verifier.mid_trial("flipped", flipped)
        assert rotation_errors(found.c2w).max() < 6

    def test_a_view_that_no_pair_places_is_found_all_the_same(self, verifier, start, monkeypatch):
        monkeypatch.setattr(Verifier, "_suggested", lambda *given: np.zeros((0, 4, 4)))
        lost = start.copy()
        lost[4] = turned([1.0, 2.0, -0.5]) @ lost[4]
        assert rotation_errors(lost).max() > 60
        found = verifier.mid_trial("lost", lost)
        assert rotation_errors(found.c2w).max() < 8

    def test_a_view_with_wrong_normals_still_fits_nowhere(self, start):
        capture, distances = duck()
        normals = capture.normals.copy()
        normals[4] *= np.float32([-1, 1, 1])
        wrong = replace(capture, normals=normals)
        rounds = with_verification(rounds=1, last_rounds=1)
        verifier = Verifier(wrong, working_views(wrong, distances), searched()[1], rounds)
        with pytest.raises(ConvergenceError, match="duck: view 04 fits nowhere to the others"):
            verifier.best([candidate("none", start)])

    def test_views_in_equal_steps_are_not_turned(self, verifier, start, monkeypatch):
        """Onto another side of the object that looks like theirs."""
        monkeypatch.setattr(Verifier, "_with_doubtful_moved", lambda self, trial: trial.c2w)
        trial = verifier._refined("good", start, COARSE_PLAN)
        consistency = trial.normal_consistency
        least = SETTINGS.verification.outlier_ratio * consistency.median()
        assert not (consistency < least).any()
        assert verifier.with_moved_views(trial) is not None
        steps = turntable(2 * np.pi * np.arange(VIEWS) / VIEWS, np.deg2rad(25.0), 15.0)
        monkeypatch.setattr(Trial, "c2w", steps)
        assert verifier.with_moved_views(trial) is None

    def test_a_candidate_that_leaves_no_surface_is_passed_over(self, verifier, start, monkeypatch):
        refined = Verifier._refined

        def lost(self, assumption, *rest):
            if assumption == "none":
                raise LostSurfaceError("nothing left")
            return refined(self, assumption, *rest)

        monkeypatch.setattr(Verifier, "_refined", lost)
        monkeypatch.setattr(Verifier, "fine_trial", lambda self, trial: trial)
        found = verifier.best([candidate("none", start), candidate("axis", start)])
        assert (found.assumption, found.margin) == ("axis", None)
        with pytest.raises(ConvergenceError, match="no poses were found under which"):
            verifier.best([candidate("none", start)])

    def test_a_group_of_views_returns_to_its_side(self, verifier, start):
        found = verifier.mid_trial("turned", quarter_turned(start, 5))
        assert rotation_errors(found.c2w).max() < 6

    def test_the_margin_is_over_the_views_at_other_places(self, verifier, start):
        good = verifier._refined("good", start, COARSE_PLAN)
        bad = verifier._refined("bad", quarter_turned(start, 5), COARSE_PLAN)
        assert good.score > bad.score
        differing = differing_views(good, bad, 12.0)
        gain = (good.normal_consistency - bad.normal_consistency).numpy()
        assert differing.any()
        assert margin_over(good, bad, 12.0) == pytest.approx(gain[differing].mean())

    def test_normals_that_make_no_sense_are_refused(self, start):
        """Their x axis points the wrong way. No view is moved, which would help nothing."""
        capture, distances = duck()
        mirrored = replace(capture, normals=capture.normals * np.float32([-1, 1, 1]))
        rounds = with_verification(rounds=0)
        verifier = Verifier(mirrored, working_views(mirrored, distances), searched()[1], rounds)
        with pytest.raises(ConvergenceError, match=r"^duck: (no poses were found|view .* fits)"):
            verifier.best([candidate("none", start)])


def flattened(capture: Capture) -> Capture:
    """With normals drawn towards the camera, and patches of random ones."""
    normals = capture.normals * np.float32([0.6, 0.6, 1])
    rng = np.random.default_rng(0)
    for view in normals:
        for row, column in rng.integers([30, 40], [70, 80], (3, 2)):
            view[row : row + 5, column : column + 5, :2] = rng.normal(0, 0.5, 2)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    normals = np.where(capture.masks[..., None], normals / length.clip(1e-6), 0)
    return replace(capture, normals=normals.astype(np.float32))


def bunched(c2w: np.ndarray) -> np.ndarray:
    """With the cameras moved round the object by up to 20 degrees, together on two sides of it."""
    azimuths = np.arctan2(c2w[:, 1, 3], c2w[:, 0, 3])
    turns = np.deg2rad(20) * np.sin(2 * azimuths)
    return np.stack([turned([0, 0, turn]) @ pose for turn, pose in zip(turns, c2w, strict=True)])


class TestContours:
    """They tell candidates apart whose normals fit equally well."""

    @pytest.fixture
    def flat(self, monkeypatch) -> Verifier:
        """Of normals that fit all candidates equally well."""
        monkeypatch.setattr(Verifier, "_margin", lambda *_: 0.0)
        monkeypatch.setattr(Verifier, "fine_trial", lambda self, trial: trial)
        monkeypatch.setattr(Verifier, "_coarse_trials", lambda *_: [])
        capture, distances = duck()
        capture = flattened(capture)
        return Verifier(capture, working_views(capture, distances), searched()[1], SETTINGS)

    @pytest.mark.parametrize("right_first", [True, False])
    def test_poses_that_have_drifted_off_lose(self, flat, start, monkeypatch, right_first):
        right = flat._refined("right", start, COARSE_PLAN)
        drifted = flat._refined("drifted", bunched(start), COARSE_PLAN)
        order = [right, drifted] if right_first else [drifted, right]
        monkeypatch.setattr(Verifier, "_distinct", lambda *_: order)
        monkeypatch.setattr(Verifier, "_mid_trials", lambda *_: order)
        found = flat.best([])
        assert found.assumption == "right"
        assert found.contour_ratio > SETTINGS.verification.min_contour_ratio
        assert rotation_errors(found.c2w).max() < 6

    def test_equal_contours_leave_two_solutions(self, flat, start, monkeypatch):
        verifier = "pmni.registration.verification.verifier"
        monkeypatch.setattr(f"{verifier}.contour_distances", lambda *_: np.full(VIEWS, 0.3))
        candidates = [candidate("none", start), candidate("axis", quarter_turned(start, 3))]
        trials = [flat._refined(given.assumption, given.c2w, COARSE_PLAN) for given in candidates]
        monkeypatch.setattr(Verifier, "_mid_trials", lambda *_: trials)
        with pytest.raises(ConvergenceError, match="two different solutions"):
            flat.best([])

    def test_right_poses_meet_the_contours(self, verifier, start):
        distances = contour_distances(verifier._refined("right", start, COARSE_PLAN), 300)
        assert distances.shape == (VIEWS,)
        assert distances.max() < 1

    def test_only_significant_ratios_count(self):
        near = np.full(8, 0.4)
        assert contour_ratio(near, np.full(8, 0.9), 3.0) == pytest.approx(2.0)
        assert contour_ratio(np.full(8, 0.9), near, 3.0) == pytest.approx(0.5)
        mixed = np.where(np.arange(8) % 2 == 0, 0.2, 1.4)
        assert contour_ratio(near, mixed, 3.0) == 1.0
        assert contour_ratio(near[:1], near[:1] * 9, 3.0) == 1.0


class TestNeighbourInconsistency:
    """Whether views agree best with their neighbours."""

    angles = np.abs(np.subtract.outer(np.arange(6), np.arange(6))) * 10.0

    def test_differences_that_grow_with_the_angle_are_in_order(self):
        assert inconsistency_of(5 + 0.1 * self.angles, self.angles) == 1.0
        assert inconsistency_of(np.full((6, 6), np.nan), self.angles) == 1.0

    def test_two_groups_of_views_are_in_disorder(self):
        """Each view is next to those of the other group, from which it differs twice as much."""
        side = np.arange(6) % 2
        assert inconsistency_of(np.where(side[:, None] == side, 5.0, 10.0), self.angles) == 2.0
        one_wrong = np.full((6, 6), 5.0)
        one_wrong[2] = one_wrong[:, 2] = 12.0
        assert inconsistency_of(one_wrong, self.angles) > 2

    def test_normals_are_compared_at_the_same_points(self, verifier, start):
        now = verifier._refined("right", start, COARSE_PLAN).solver.state
        measurements = verifier.observations
        right = normal_differences(measurements, now.surface, now.c2w())
        assert np.array_equal(np.isnan(right), np.isnan(right.T))
        assert np.isnan(right.diagonal()).all()
        known = np.isfinite(right)
        assert known.any(1).all()
        assert right[known].max() < 12
        turn = torch.as_tensor(Rotation.from_rotvec([0, 0, 0.5]).as_matrix(), dtype=torch.float32)
        own = slice(*measurements.first_pixel[:2].tolist())
        turned = measurements.normals.clone()
        turned[own] = turned[own] @ turn.T
        wrong = normal_differences(replace(measurements, normals=turned), now.surface, now.c2w())
        np.testing.assert_allclose(wrong[1:, 1:][known[1:, 1:]], right[1:, 1:][known[1:, 1:]])
        assert (wrong[0] > right[0] + 3)[known[0]].all()


class TestViewAmbiguity:
    """Of pose sets in which some views were laid onto a wrong side."""

    def poses(self, c2w: np.ndarray) -> PoseSet:
        w2c = np.linalg.inv(c2w)
        return PoseSet(w2c[:, :3, :3], w2c[:, :3, 3], np.ones(VIEWS))

    def test_the_pairs_tell_the_turn(self):
        """All pairs are consistent; some have a second hypothesis, from one side to the other."""
        half = Rotation.from_rotvec([0, 0, np.pi]).as_matrix()
        R = Rotation.random(10, random_state=1).as_matrix()
        pairs = np.array([(i, j) for i in range(10) for j in range(i + 1, 10)])[::-1]
        right = np.stack([R[j] @ R[i].T for i, j in pairs])
        other = np.stack([R[j] @ half @ R[i].T for i, j in pairs[:20]])
        near = Rotation.from_rotvec(np.random.default_rng(0).normal(0, 0.03, (20, 3))).as_matrix()

        def graph(count: int) -> PairGraph:
            alternatives = (near @ other)[:count]
            return pair_graph(
                10, np.concatenate([pairs, pairs[:count]]), np.concatenate([right, alternatives]),
                np.zeros((45 + count, 3)), np.full(45 + count, 0.5), np.full(45 + count, 0.5),
            )  # fmt: skip

        assert symmetry_rotations(graph(0), R, AmbiguitySettings()) == []
        assert symmetry_rotations(graph(5), R, AmbiguitySettings()) == [], "too few"
        (turn,) = symmetry_rotations(graph(20), R, AmbiguitySettings())
        assert np.rad2deg(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))) > 175
        np.testing.assert_allclose(np.abs(turn[2, 2]), 1, atol=0.01)

    def test_moving_is_seeing_the_object_moved(self, start):
        poses, chosen = self.poses(start), np.arange(VIEWS) == 3
        turn = Rotation.from_rotvec([0.3, -0.2, 1.0]).as_matrix()
        motion = SymmetryTransform(turn, np.array([0.1, 0.2, -0.3]))
        after = transform_views(poses, chosen, motion)
        X = np.array([0.2, 0.5, -0.1])
        there = turn @ X + motion.translation
        expected = poses.rotations[3] @ there + poses.translations[3]
        np.testing.assert_allclose(after.rotations[3] @ X + after.translations[3], expected)
        np.testing.assert_array_equal(after.rotations[~chosen], poses.rotations[~chosen])

    def test_the_views_on_the_wrong_side_are_found_and_moved(self, start):
        ambiguity = AmbiguitySettings(single_views=1, rounds=2)
        multiview = SETTINGS.multiview.model_copy(update={"ambiguity": ambiguity})
        settings = SETTINGS.model_copy(update={"multiview": multiview})
        context = replace(searched()[0], settings=settings)
        graph = reliable_subgraph(searched()[1], multiview.graph)
        found = resolve_ambiguity(context, graph, self.poses(quarter_turned(start, 4)))
        assert rotation_errors(np.linalg.inv(matrices(found[0]))).max() < 8
        assert all(len(other.rotations) == VIEWS for other in found)


def matrices(poses: PoseSet) -> np.ndarray:
    w2c = np.tile(np.eye(4), (len(poses.rotations), 1, 1))
    w2c[:, :3, :3], w2c[:, :3, 3] = poses.rotations, poses.translations
    return w2c


def test_a_body_of_revolution_is_refused(monkeypatch):
    """By its pairs of views alone."""
    monkeypatch.setattr(Strategies, "run", lambda _: [])
    vase = union(
        cylinder(-0.8, 0.1, 0.55, 0.3), capsule((0, 0, 0), (0, 0, 0.9), 0.3, 0.18), blend=0.1
    )
    capture, distances = views_of("vase", vase)
    with pytest.raises(ConvergenceError, match="vase: the views do not determine the poses"):
        register(capture, distances, SETTINGS)
