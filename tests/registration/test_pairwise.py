"""Relative poses of pairs of views: views, support functions, scores, alignment, hypotheses."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from fixtures.working_views import working_views
from scipy.spatial.transform import Rotation

from pmni.config.registration import (
    AlignmentSettings,
    AlignmentStage,
    OverlapSettings,
    PairwiseSettings,
    SupportSearchSettings,
)
from pmni.data.capture import Capture
from pmni.errors import InputError
from pmni.geometry.cameras import look_at
from pmni.geometry.transforms import rotation_angle_deg
from pmni.registration.pairwise.alignment import align, compare, pair_equations, perturbed
from pmni.registration.pairwise.hypotheses import pair_hypotheses
from pmni.registration.pairwise.overlap import OverlapScore, overlap_score
from pmni.registration.pairwise.support_functions import (
    cells_of,
    search,
    search_grid,
    super_fibonacci,
    support_function,
    table_directions,
    view_support_functions,
)
from pmni.synthetic.analytic_surface import AnalyticSurface
from pmni.synthetic.rendering import render
from pmni.synthetic.scenes import HALF_SIDE, SCENES
from pmni.synthetic.tessellation import tessellate

CPU = torch.device("cpu")
K = np.array([[940.0, 0, 76], [0, 940, 63.5], [0, 0, 1]])
DISTANCE = 15.0
FINE = {"tolerance": 0.0625, "angle": math.radians(18), "settings": OverlapSettings()}
PAIRWISE = PairwiseSettings()
SEARCH = SupportSearchSettings()


def camera(azimuth: float, elevation: float, roll: float = 0.0) -> np.ndarray:
    a, e = np.deg2rad([azimuth, elevation])
    position = DISTANCE * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    return look_at(position, np.zeros(3), roll=np.deg2rad(roll))


@cache
def duck() -> tuple[Capture, np.ndarray]:
    """Exact views of an analytic object from cameras that are rolled and tilted at random."""
    surface = AnalyticSurface(tessellate(SCENES["blob"](), HALF_SIDE, 4000).scaled_to(0.8))
    c2w = np.stack([camera(20, 25), camera(48, 10, 35), camera(75, 30, -20), camera(250, 40)])
    images = list(render(surface, K, c2w, 128, 153))
    capture = Capture(
        name="duck",
        views=("a", "b", "c", "d"),
        normals=np.stack([image.normals for image in images]),
        masks=np.stack([image.mask for image in images]),
        intrinsics=np.stack([K] * len(images)),
        reference_c2w=c2w,
    )
    return capture, np.stack([image.ray_distance for image in images])


@cache
def duck_views():
    return working_views(*duck())


def relative(i: int, j: int) -> torch.Tensor:
    """The true rotation from view i to view j."""
    c2w = duck()[0].reference_c2w[:, :3, :3]
    return torch.from_numpy((c2w[j].T @ c2w[i]).astype(np.float32))


def about_centres(views, source, target, R):
    return views.centres[target] - (R @ views.centres[source][..., None])[..., 0]


def angles(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    a, b = torch.broadcast_tensors(a.double(), b.double())
    return rotation_angle_deg(a.numpy(), b.numpy())


def sphere_capture(size: int, radius: float, focal: float) -> tuple[Capture, np.ndarray]:
    """Two equal views of a ball at the distance 10, in images of size x size pixels."""
    v, u = np.mgrid[:size, :size]
    middle = (size - 1) / 2
    rays = np.stack([(u - middle) / focal, (v - middle) / focal, np.ones_like(u)], -1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    along = 10 * rays[..., 2]
    inner = radius**2 - (100 - along**2)
    mask = inner > 0
    distance = np.where(mask, along - np.sqrt(np.maximum(inner, 0)), np.nan)
    normals = np.where(mask[..., None], (distance[..., None] * rays - [0, 0, 10]) / radius, 0)
    capture = Capture(
        name="ball",
        views=("left", "right"),
        normals=np.stack([normals] * 2),
        masks=np.stack([mask] * 2),
        intrinsics=np.stack([[[focal, 0, middle], [0, focal, middle], [0, 0, 1]]] * 2),
    )
    return capture, np.stack([distance] * 2)


class TestWorkingViews:
    @pytest.mark.parametrize(("size", "factor"), [(128, 1), (512, 5)])
    def test_have_a_common_working_resolution_and_object_size(self, size, factor):
        focal = size * 5.0
        capture, distances = sphere_capture(size, 0.9, focal)
        views = working_views(capture, distances * 7)
        pixels = (views.signed_distance[0] < 0).sum().item()
        silhouette = 0.9 / math.sqrt(100 - 0.9**2)
        assert math.sqrt(pixels / math.pi) == pytest.approx(focal / factor * silhouette, rel=0.02)
        assert views.intrinsics[0, 0, 0] == pytest.approx(focal / factor)
        # the silhouette's radius at the object's depth
        inside = views.signed_distance[0] < 0
        assert views.depth[0][inside].median() * silhouette == pytest.approx(views.radius, rel=0.03)
        # the ball, but for the scale of the whole view
        away = views.points[0].norm(dim=1)
        along = 10 * views.points[0, :, 2] / away
        scale = away / (along - (0.9**2 - (100 - along**2)).sqrt())
        assert scale.std() / scale.mean() < 2e-3
        outward = (views.points[0] / scale.mean() - torch.tensor([0, 0, 10])) / 0.9
        assert (outward * views.point_normals[0]).sum(1).median() > math.cos(math.radians(1))

    def test_measure_the_distance_from_the_contour(self):
        capture, distances = sphere_capture(128, 0.9, 640.0)
        views = working_views(capture, distances)
        _, height, width = views.depth.shape
        v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        principal = views.intrinsics[0, :2, 2]
        away = torch.stack([u - principal[0], v - principal[1]], -1).norm(dim=-1)
        radius = 640 * 0.9 / math.sqrt(100 - 0.9**2)
        assert (views.signed_distance[0] - (away - radius)).abs().max() < 1.0

    def test_do_not_depend_on_the_order(self):
        capture, distances = duck()
        order = [2, 0, 3, 1]
        turned = replace(
            capture,
            views=tuple(capture.views[i] for i in order),
            normals=capture.normals[order],
            masks=capture.masks[order],
            intrinsics=capture.intrinsics[order],
            reference_c2w=capture.reference_c2w[order],
        )
        shuffled = working_views(turned, 3 * distances[order])
        for name in ("depth", "normals", "points", "centres", "intrinsics"):
            torch.testing.assert_close(getattr(shuffled, name), getattr(duck_views(), name)[order])

    def test_take_no_points_at_a_depth_jump(self):
        capture, distances = sphere_capture(128, 0.9, 640.0)
        torn = distances.copy()
        torn[:, :, 64:] += 1
        views = working_views(capture, torn)
        column = (
            views.intrinsics[0, 0, 0] * views.points[0, :, 0] / views.points[0, :, 2]
            + views.intrinsics[0, 0, 2]
        )
        jump = views.intrinsics[0, 0, 2]  # the image's middle
        assert (column - jump).abs().min() > 0.9

    def test_go_on_outside_the_mask_as_at_its_rim(self):
        views = duck_views()
        assert torch.isfinite(views.depth).all()
        ones = torch.ones_like(views.depth)
        torch.testing.assert_close(views.normals.norm(dim=-1), ones)

    def test_refuse_an_almost_empty_mask_by_name(self):
        capture, distances = duck()
        masks = capture.masks.copy()
        masks[1] = False
        masks[1, 60:64, 60:64] = True
        with pytest.raises(InputError, match="duck: view b: too few pixels"):
            working_views(replace(capture, masks=masks), distances)

    def test_refuse_a_thread_of_a_mask(self):
        capture, distances = sphere_capture(128, 0.9, 640.0)
        masks = capture.masks.copy()
        masks[0] = False
        masks[0, 64:66] = capture.masks[0, 64:66]
        with pytest.raises(InputError, match="view left: too few pixels"):
            working_views(replace(capture, masks=masks), distances)

    def test_refuse_a_single_view(self):
        capture, distances = duck()
        alone = Capture(capture.normals[:1], capture.masks[:1], K[None], ("a",), "duck")
        with pytest.raises(InputError, match="fewer than two views"):
            working_views(alone, distances[:1])


class TestSupportFunctions:
    def test_of_an_ellipsoid(self):
        """h(u) = |A u| for the image of the unit ball under A."""
        ball = torch.nn.functional.normalize(torch.randn(20_000, 3, generator=seeded()), dim=1)
        A = torch.diag(torch.tensor([1.0, 2.0, 0.5]))
        u = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.6, 0.8, 0], [0, 0, -1]])
        expected = torch.tensor([1.0, 2.0, math.sqrt(0.36 + 4 * 0.64), 0.5])
        torch.testing.assert_close(support_function(ball @ A, u), expected, atol=3e-3, rtol=0)

    def test_cells_of_the_table_lie_close_to_what_is_looked_up(self):
        directions = torch.nn.functional.normalize(torch.randn(5000, 3, generator=seeded()), dim=1)
        directions = directions[directions[:, 2] < 0.1]
        found = table_directions(SEARCH, CPU)[cells_of(directions, SEARCH)]
        apart = torch.rad2deg((found * directions).sum(1).clamp(-1, 1).acos())
        assert apart.max() < 2.5
        table = table_directions(SEARCH, CPU)
        facing = table[:, 2] < 0.05
        assert (cells_of(table, SEARCH)[facing] == torch.arange(len(table))[facing]).all()

    def test_rotations_cover_all_of_so3(self):
        grid = torch.from_numpy(super_fibonacci(3000))
        for R in Rotation.random(50, random_state=0).as_matrix():
            assert angles(grid, torch.from_numpy(R)).min() < 20

    def test_search_finds_the_rotation_among_its_first(self):
        views = duck_views()
        grid = search_grid(SupportSearchSettings(candidates=50), CPU)
        supports = view_support_functions(views, grid)
        found = search(views, supports, grid, 0, torch.tensor([1, 2]))
        for index, target in enumerate((1, 2)):
            assert angles(found.rotations[index], relative(0, target)[None]).min() < 10
        assert (found.residuals.diff(dim=1) >= 0).all()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class TestOverlapScore:
    def test_of_a_view_with_itself_is_perfect(self):
        views = duck_views()
        same = torch.arange(len(views))
        R = torch.eye(3).expand(len(views), 3, 3)
        result = overlap_score(views, same, same, R, torch.zeros(len(views), 3), **FINE)
        ones = torch.ones(len(views))
        torch.testing.assert_close(result.good / result.visible, ones, atol=0.01, rtol=0)
        torch.testing.assert_close(result.normalised(), ones, atol=0.02, rtol=0)
        assert result.violation().max() == 0

    def test_is_symmetric(self):
        views = duck_views()
        i, j = torch.tensor([0, 1]), torch.tensor([2, 3])
        R = torch.stack([relative(0, 2), relative(1, 3)])
        t = about_centres(views, i, j, R)
        forth = overlap_score(views, i, j, R, t, **FINE)
        inverse = -(R.mT @ t[..., None])[..., 0]
        back = overlap_score(views, j, i, R.mT.contiguous(), inverse, **FINE)
        torch.testing.assert_close(forth.raw(), back.raw(), atol=0.02, rtol=0)

    def test_counts_what_is_seen_where(self):
        views = duck_views()
        one = torch.zeros(1, dtype=torch.long)
        R = torch.eye(3)[None]

        def moved(*shift: float) -> OverlapScore:
            return overlap_score(views, one, one, R, torch.tensor([shift]), **FINE)

        beside = moved(3.0, 0.0, 0.0)
        assert beside.outside > 0.99
        assert beside.good == 0
        # moved along the rays: one way's points lie in front, the other way's behind
        nearer = moved(0.0, 0.0, -0.4)
        assert nearer.in_front == pytest.approx(0.5, abs=0.05)
        assert nearer.behind == pytest.approx(0.5, abs=0.05)
        half_turn = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))[None]
        t = about_centres(views, one, one, half_turn)
        behind = overlap_score(views, one, one, half_turn, t, **FINE)
        assert behind.visible < 0.1

    def test_scores_are_the_weighted_sums(self):
        parts = [torch.tensor([value]) for value in (0.5, 0.1, 0.02, 0.03, 0.04, 0.05, 0.4)]
        result = OverlapScore(OverlapSettings(), *parts)
        assert result.raw().item() == pytest.approx(0.5 - 0.07 - 0.05 - 0.02 - 0.015)
        evidence = 0.5 - 0.07 - 0.1 - 0.012 - 0.025
        assert result.evidence().item() == pytest.approx(evidence)
        assert result.normalised().item() == pytest.approx(evidence / 0.4 * 0.8)


def stage(iterations: int, points: int) -> AlignmentStage:
    return AlignmentStage(
        sigma_normal=0.25, sigma_depth=(0.19, 0.075), iterations=iterations, points=points
    )


class TestAlignment:
    def test_jacobian_is_that_of_finite_differences(self):
        views = double(duck_views())
        source, target = torch.tensor([0, 2]), torch.tensor([1, 1])
        R = torch.stack([relative(0, 1), relative(2, 1)]).double()
        t = about_centres(views, source, target, R) + 0.013
        centre = views.centres[target]

        def residuals(xi: torch.Tensor) -> torch.Tensor:
            moved = perturbed(R, t, xi.expand(2, 6), centre)
            return compare(views, source, target, *moved, centre, 200).residuals

        analytic = compare(views, source, target, R, t, centre, 200).jacobian
        for axis in range(6):
            step = torch.zeros(6, dtype=torch.float64)
            step[axis] = 1e-6
            numeric = (residuals(step) - residuals(-step)) / 2e-6
            error = (analytic[:, axis] - numeric).abs()
            limit = 1e-3 * (1 + numeric.abs())
            assert (error > limit).float().mean() < 0.005  # where a point crosses a pixel's edge

    def test_a_perturbation_is_a_rotation_vector_and_then_a_translation(self):
        R = relative(0, 1).double()[None]
        t, centre = torch.tensor([[0.1, 0.2, 15.0]]).double(), torch.tensor([[0.0, 0.1, 14.0]])
        turn = torch.tensor([[0.1, -0.2, 0.3, 0, 0, 0]], dtype=torch.float64)
        matrix = torch.from_numpy(Rotation.from_rotvec(turn[0, :3].numpy()).as_matrix())
        turned, shifted = perturbed(R, t, turn, centre.double())
        torch.testing.assert_close(turned[0], matrix @ R[0])
        torch.testing.assert_close(shifted[0], matrix @ (t - centre)[0] + centre[0].double())
        shift = torch.tensor([[0, 0, 0, 0.1, -0.2, 0.3]], dtype=torch.float64)
        unturned, moved = perturbed(R, t, shift, centre.double())
        torch.testing.assert_close(unturned, R, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(moved, t + shift[:, 3:])

    def test_equations_are_the_same_the_other_way_round(self):
        """A left perturbation of the target's points is one of the source's, about its centre."""
        views = double(duck_views())
        i, j = torch.tensor([0]), torch.tensor([1])
        R = relative(0, 1).double()[None]
        t = about_centres(views, i, j, R) + 0.02
        scales = 0.3, 0.1, AlignmentSettings()
        A, b, cost = pair_equations(views, i, j, R, t, *scales)
        shift = -(R.mT @ t[..., None])[..., 0]
        other_A, other_b, other_cost = pair_equations(
            views, j, i, R.mT, shift, 0.3, 0.1, AlignmentSettings()
        )
        centre = (R.mT @ (views.centres[j] - t)[..., None])[..., 0]
        x, y, z = (views.centres[i] - centre)[0].tolist()
        lever = torch.tensor([[0, z, -y], [-z, 0, x], [y, -x, 0]], dtype=torch.float64)  # w x arm
        M = torch.zeros(6, 6, dtype=torch.float64)
        M[:3, :3] = M[3:, 3:] = -R[0].T
        M[3:, :3] = -lever @ R[0].T
        torch.testing.assert_close(A[0], M.T @ other_A[0] @ M, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(b[0], M.T @ other_b[0], rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(cost, other_cost, rtol=1e-5, atol=0)
        torch.testing.assert_close(A, A.mT)

    def test_brings_wrong_poses_to_the_true_ones(self):
        views = duck_views()
        source, target = torch.zeros(8, dtype=torch.long), torch.ones(8, dtype=torch.long)
        errors = Rotation.from_rotvec(
            0.12 * np.random.default_rng(0).normal(size=(8, 3)) / math.sqrt(3)
        ).as_matrix()
        R = torch.from_numpy(errors.astype(np.float32)) @ relative(0, 1)
        t = about_centres(views, source, target, R)
        R, t = align(views, source, target, R, t, stage(12, 300), AlignmentSettings())
        assert angles(R, relative(0, 1)[None]).max() < 1.0
        torch.testing.assert_close(R @ R.mT, torch.eye(3).expand(8, 3, 3), atol=1e-5, rtol=0)

    def test_each_pose_is_aligned_by_itself(self):
        views = duck_views()
        source, target = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2])
        R = torch.stack([relative(0, 1), relative(0, 2), relative(1, 2)])
        t = about_centres(views, source, target, R)
        together = align(views, source, target, R, t, stage(3, 200), AlignmentSettings())
        for k in range(3):
            one = slice(k, k + 1)
            alone = align(
                views, source[one], target[one], R[one], t[one], stage(3, 200), AlignmentSettings()
            )
            # rounding decides whether a point on the edge of a mask counts
            torch.testing.assert_close(alone[0], together[0][one], atol=1e-3, rtol=0)
            torch.testing.assert_close(alone[1], together[1][one], atol=2e-3, rtol=0)


class TestHypotheses:
    def test_register_exact_views(self):
        found = pair_hypotheses(duck_views(), PAIRWISE)
        for i, j in ((0, 1), (1, 2), (0, 2)):
            mine = (found.pairs == torch.tensor([i, j])).all(1)
            assert 1 <= mine.sum() <= PAIRWISE.hypotheses
            assert (found.scores[mine].diff() <= 0).all()
            best = found.rotations[mine][:1]
            assert angles(best, relative(i, j)[None]).item() < 3
        assert set(map(tuple, found.pairs.tolist())) == {
            (i, j) for i in range(4) for j in range(i + 1, 4)
        }

    def test_place_the_object_where_it_is(self):
        """Each view has its own scale; in those the object's centre lands on its centre."""
        views = duck_views()
        found = pair_hypotheses(views, PAIRWISE)
        assert found.pairs[0].tolist() == [0, 1]
        centres = []
        for index in (0, 1):
            inside = views.signed_distance[index] < 0
            scale = views.depth[index][inside].median().item() / np.nanmedian(duck()[1][index])
            centre = np.linalg.inv(duck()[0].reference_c2w[index])[:3, 3] * scale
            centres.append(torch.from_numpy(centre.astype(np.float32)))
        moved = found.rotations[0] @ centres[0] + found.translations[0]
        away = (moved - centres[1]).abs() / views.radius
        assert away[:2].max() < 0.03
        assert away[2] < 0.15

    def test_are_the_same_again_on_any_number_of_threads(self):
        threads = torch.get_num_threads()
        calls: list[tuple[int, int]] = []
        first = pair_hypotheses(duck_views(), PAIRWISE, progress=lambda *state: calls.append(state))
        assert calls[-1] == (6, 6)
        assert torch.get_num_threads() == threads
        try:
            torch.set_num_threads(1)
            second = pair_hypotheses(duck_views(), PAIRWISE)
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(first.rotations, second.rotations)
        assert torch.equal(first.scores, second.scores)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_are_found_on_a_gpu_too(self):
        found = pair_hypotheses(working_views(*duck(), device=torch.device("cuda")), PAIRWISE)
        mine = (found.pairs.cpu() == torch.tensor([0, 1])).all(1)
        assert angles(found.rotations.cpu()[mine][:1], relative(0, 1)[None]).item() < 3


def double(views):
    """Views in double precision."""
    names = ("normals", "depth", "signed_distance", "intrinsics", "points", "point_normals")
    tensors = {name: getattr(views, name).double() for name in (*names, "centres")}
    return replace(views, **tensors)
