"""The least value of a surface along rays."""

import pytest
import torch
from fixtures.analytic_sdfs import Analytic, sphere, union
from fixtures.ring import (
    RING,
    generator,
)
from torch import Tensor
from torch.nn.functional import normalize

from pmni.sdf.closest_approach import closest_approach
from pmni.sdf.sphere_tracing import box_interval


def random_rays(count: int) -> tuple[Tensor, Tensor]:
    origin = 5 * normalize(torch.randn(count, 3, generator=generator(3)), dim=-1)
    target = torch.rand(count, 3, generator=generator(4)) * 1.6 - 0.8
    return origin, normalize(target - origin, dim=-1)


@pytest.mark.parametrize(
    "sdf", [RING, union(sphere(0.3, (0.4, 0, 0)), sphere(0.35, (-0.4, 0.1, 0)))],
    ids=["ring", "two balls"],
)  # fmt: skip
def test_closest_approach_is_the_least(sdf: Analytic) -> None:
    origin, direction = random_rays(400)
    near, far = box_interval(origin, direction)
    step = 0.03
    at, least = closest_approach(sdf, origin, direction, near, far, step)
    t = near[:, None] + torch.linspace(0, 1, 4001) * (far - near)[:, None]
    x = origin[:, None] + t[..., None] * direction[:, None]
    brute = sdf(x.reshape(-1, 3)).view(t.shape).amin(-1)
    assert (least - brute).max() < 2e-3  # between minima, and at the kinks of distances
    assert (least - brute).abs().median() < 5e-5
    assert (brute - least).max() < 5e-4
    torch.testing.assert_close(sdf(origin + at[:, None] * direction), least, atol=1e-5, rtol=0)


def test_closest_approach_asks_for_few_values() -> None:
    asked = []
    sdf = Analytic(lambda x: asked.append(len(x)) or RING(x))
    origin, direction = random_rays(1000)
    closest_approach(sdf, origin, direction, *box_interval(origin, direction), 0.03)
    assert sum(asked) < 65 * len(origin)
