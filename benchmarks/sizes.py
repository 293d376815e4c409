"""Sizes of the measured problems."""

from dataclasses import dataclass
from typing import Any

from pmni.config.refinement import RefineSettings
from pmni.config.training import FieldSettings, TrainSettings


@dataclass(frozen=True)
class Sizes:
    """Sizes of one run."""

    repeats: int
    """Number of calls of which the median is taken."""
    copied_mb: int
    matrix: int
    """Rows and columns of the matrices whose product is timed."""
    fields: dict[str, FieldSettings]
    points: int
    rays: int
    ray_cells: int
    """Cells along a side of the grid surface that rays are traced on."""
    faces: int
    """Number of triangles of the object's mesh."""
    views: int
    height: int
    width: int
    refine: RefineSettings
    """Settings of the refinement."""
    view_counts: tuple[int, ...]
    image_factors: tuple[float, ...]
    train: TrainSettings
    steps: int
    """Number of training steps timed together; some refresh the occupancy grid."""
    patch_counts: tuple[int, ...]
    level_counts: tuple[int, ...]
    check_every: int
    """Training steps between two evaluations of the Chamfer distance."""
    check_cells: int
    targets_mm: tuple[float, ...]
    """Chamfer distances, mm, for which the time until they are reached is measured."""
    paper: dict[str, Any] | None
    """Overrides of the training settings of pmni-paper; None leaves this part out."""
    paper_every: int
    """Steps of pmni-paper between two timings with all rays."""
    mesh_cells: tuple[int, ...]
    compared_cells: int
    """Largest number of cells along a side at which other extractors are measured."""


def _fields(*shapes: tuple[int, int, float]) -> dict[str, FieldSettings]:
    """Field settings by name, from tuples (levels, log2_entries, growth)."""
    return {
        f"{levels} x 2^{entries}": FieldSettings(
            levels=levels, log2_entries=entries, growth=growth, initial_levels=levels
        )
        for levels, entries, growth in shapes
    }


GPU = Sizes(
    repeats=20,
    copied_mb=1024,
    matrix=8192,
    fields=_fields((14, 19, 1.3819), (8, 15, 1.3819)),
    points=2**18,
    rays=2**18,
    ray_cells=256,
    faces=200_000,
    views=20,
    height=512,
    width=612,
    refine=RefineSettings(),
    view_counts=(5, 10, 20, 40, 80),
    image_factors=(0.25, 0.5, 1.0, 2.0),
    train=TrainSettings(),
    steps=96,
    patch_counts=(512, 1024, 2048, 4096, 8192),
    level_counts=(4, 8, 14),
    check_every=50,
    check_cells=256,
    targets_mm=(1.0, 0.5, 0.3, 0.2, 0.15, 0.1),
    paper={},
    paper_every=2500,
    mesh_cells=(256, 512, 1024),
    compared_cells=512,
)

CPU = Sizes(
    repeats=20,
    copied_mb=256,
    matrix=1024,
    fields=_fields((14, 19, 1.3819), (8, 15, 1.3819)),
    points=2**14,
    rays=2**14,
    ray_cells=128,
    faces=80_000,
    views=12,
    height=128,
    width=153,
    refine=RefineSettings(cells=128, pixels=1000, iterations=(6, 8, 5)),
    view_counts=(6, 12, 24),
    image_factors=(0.5, 1.0, 2.0),
    train=TrainSettings.parse(
        {"steps": 100, "patches": 256, "field": {"increase_bandwidth_every": 12}}, "benchmarks"
    ),
    steps=16,
    patch_counts=(128, 256, 512),
    level_counts=(4, 8, 14),
    check_every=20,
    check_cells=96,
    targets_mm=(2.0, 1.0, 0.5),
    paper=None,
    paper_every=0,
    mesh_cells=(64, 128, 256),
    compared_cells=256,
)

QUICK = Sizes(
    repeats=1,
    copied_mb=4,
    matrix=128,
    fields=_fields((2, 10, 2.0)),
    points=2**8,
    rays=2**6,
    ray_cells=64,
    faces=4000,
    views=6,
    height=40,
    width=48,
    refine=RefineSettings(
        cells=32, coarsest_cells=16, iterations=(1, 1, 1), pixels=100, conjugate_gradients=5
    ),
    view_counts=(3, 6),
    image_factors=(1.0,),
    train=TrainSettings.parse(
        {
            "steps": 16,
            "patches": 16,
            "field": {"levels": 2, "log2_entries": 10},
            "rendering": {"occupancy": {"resolution": 16}, "step_start": 0.05, "step_end": 0.05},
            "warm_start": {"resolution": 16, "steps": 2, "points": 64},
        },
        "benchmarks",
    ),
    steps=2,
    patch_counts=(8, 16),
    level_counts=(1, 2),
    check_every=8,
    check_cells=48,
    targets_mm=(1000.0,),
    paper={
        "steps": 28,
        "patches": 64,
        "checkpoints": [],
        "field": {"levels": 2, "log2_entries": 10},
        "rendering": {"occupancy": {"resolution": 16}, "step_start": 0.05, "step_end": 0.05},
    },
    paper_every=3,
    mesh_cells=(32,),
    compared_cells=32,
)
