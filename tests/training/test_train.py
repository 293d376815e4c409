"""Training as a function: its result, its progress, interruption and resuming in memory."""

from collections.abc import Iterator

import pytest
import torch
from fixtures.training import CPU, TINY, changed, sphere_capture

from pmni.errors import InputError
from pmni.geometry.poses import Poses
from pmni.training.loop import TrainingInterrupted
from pmni.training.store import MemoryStore
from pmni.training.train import train


def test_a_result_has_all_kept_iterations_and_lines_go_to_progress() -> None:
    capture, distances = sphere_capture()
    assert capture.reference_c2w is not None
    lines: list[str] = []
    result = train(
        *(capture, distances, Poses(capture.views, capture.reference_c2w), None),
        *(changed(TINY, steps=4, checkpoints=[2], heldout=0.1), CPU),
        progress=lines.append,
    )
    assert list(result.kept) == [2, 4]
    assert result.final is result.kept[4]
    x = torch.rand(20, 3) - 0.5
    assert not torch.equal(result.kept[2].surface(x), result.kept[4].surface(x))
    assert result.kept[2].poses.information["iteration"] == 2
    assert [row["step"] for row in result.history] == [1, 2, 3, 4]
    assert result.selection.iteration == result.steps == 4
    assert any(line.startswith("network fitted to the visual hull") for line in lines)
    assert any(line.startswith("step 4/4") for line in lines)
    assert any(line.startswith("held-out normals, degrees") for line in lines)


def test_an_interrupted_training_goes_on_from_its_store() -> None:
    capture, distances = sphere_capture()
    assert capture.reference_c2w is not None
    inputs = capture, distances, Poses(capture.views, capture.reference_c2w), None, TINY, CPU
    whole = train(*inputs)
    store = MemoryStore()
    answers: Iterator[bool] = iter([False] * 6 + [True])
    with pytest.raises(TrainingInterrupted, match="interrupted at step 7"):
        train(*inputs, store=store, interrupted=lambda: next(answers))
    resumed = train(*inputs, store=store)
    assert list(resumed.kept) == [12], "iteration 4 was kept before"
    x = torch.rand(20, 3) - 0.5
    assert torch.equal(resumed.final.surface(x), whole.final.surface(x))
    assert (resumed.final.poses.c2w == whole.final.poses.c2w).all()
    columns = "step", "loss", "pose_rotation_deg"
    assert [[row[key] for key in columns] for row in resumed.history] == [
        [row[key] for key in columns] for row in whole.history
    ]


def test_fewer_than_two_views_are_an_error() -> None:
    capture, distances = sphere_capture(views=2)
    assert capture.reference_c2w is not None
    initial = Poses(capture.views, capture.reference_c2w)
    settings = changed(TINY, exclude_views=["01"])
    with pytest.raises(InputError, match="sphere: fewer than two views are left to train on"):
        train(capture, distances, initial, None, settings, CPU)
