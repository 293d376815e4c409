"""Counter-based random numbers are uniform and independent."""

import torch

from pmni.training.rng import StepRng


def at(step: int, seed: int = 0) -> StepRng:
    return StepRng(seed, torch.tensor(step))


def test_numbers_are_uniform() -> None:
    count = 1 << 16
    numbers = at(5).uniform(0, 2, count // 2)
    assert numbers.shape == (2, count // 2)
    assert 0 <= numbers.min() < 1e-3
    assert 1 - 1e-3 < numbers.max() < 1
    # A histogram's chi square, of 255 degrees of freedom, and those of pairs and of low bits.
    numbers = at(5).bits(0, count)
    for what in (numbers >> 24, (numbers[::2] >> 28) * 16 + (numbers[1::2] >> 28), numbers & 255):
        expected = len(what) / 256
        chi = ((torch.bincount(what, minlength=256) - expected) ** 2).sum() / expected
        assert 170 < chi < 350


def test_other_steps_streams_and_seeds_have_nothing_in_common() -> None:
    generators = [at(0), at(1), at(2**31), at(0, 1), at(0, 2**32), at(0, 2**40 + 1)]
    numbers = [one.bits(stream, 4096) for one in generators for stream in (0, 1, 2)]
    for index, one in enumerate(numbers):
        for other in numbers[:index]:
            assert (one == other).sum() <= 1
            bits = (one ^ other) & 0x10101010
            assert abs((bits != 0).float().mean() - 15 / 16) < 0.02
    assert torch.equal(numbers[0], at(0).bits(0, 5000)[:4096]), "a number has its place"


def test_integers_are_below_their_limit_and_all_occur() -> None:
    found = at(3).integers(7, 1, 7000)
    assert (torch.bincount(found, minlength=7) - 1000).abs().max() < 150
    assert len(found.unique()) == 7
    assert at(3).integers(2**31, 1, 1000).max() > 2**30
