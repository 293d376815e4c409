"""Measured limits of the machine (roofline): memory bandwidth, floating-point rate, launch time."""

from dataclasses import dataclass

import torch

from benchmarks.bench import Bench
from benchmarks.timing import median_seconds


@dataclass(frozen=True)
class Work:
    """Minimal work of a computation: bytes read and written, float32 operations."""

    bytes: float
    operations: float


@dataclass(frozen=True)
class Ceilings:
    """Measured limits of one device."""

    copy_seconds: float
    copied_bytes: int
    """Bytes read plus bytes written by the copy."""
    product_seconds: float
    product_operations: int
    launch_seconds: float
    """Time of one launch of a trivial kernel."""

    @property
    def bytes_per_second(self) -> float:
        """Memory bandwidth of a large copy."""
        return self.copied_bytes / self.copy_seconds

    @property
    def operations_per_second(self) -> float:
        """Rate of a float32 matrix product, without TensorFloat-32 by default."""
        return self.product_operations / self.product_seconds

    def floor(self, work: Work) -> float:
        """Lower bound of the seconds that the work takes (roofline model)."""
        by_bytes = work.bytes / self.bytes_per_second
        return max(by_bytes, work.operations / self.operations_per_second)


def measure_ceilings(bench: Bench) -> Ceilings:
    """Measure a large copy, a matrix product, and a trivial launch."""
    device, sizes = bench.device, bench.sizes
    source = torch.ones(sizes.copied_mb * 2**18, device=device)
    target = torch.empty_like(source)
    n = sizes.matrix
    a, product = torch.rand(n, n, device=device), torch.empty(n, n, device=device)
    one = torch.ones(1, device=device)
    return Ceilings(
        copy_seconds=median_seconds(lambda: target.copy_(source), device, sizes.repeats),
        copied_bytes=2 * source.nbytes,
        product_seconds=median_seconds(lambda: torch.mm(a, a, out=product), device, sizes.repeats),
        product_operations=2 * n**3,
        launch_seconds=median_seconds(lambda: one.add_(1), device, sizes.repeats),
    )
