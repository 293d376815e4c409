"""What the machine can do at most, measured: bytes and floating-point operations a second."""

from dataclasses import dataclass

import torch

from benchmarks.bench import Bench
from benchmarks.timing import median_seconds


@dataclass(frozen=True)
class Work:
    """What has to be done at the least: bytes to read and write, operations in single precision."""

    bytes: float
    operations: float


@dataclass(frozen=True)
class Ceilings:
    """Of one device."""

    copy_seconds: float
    copied_bytes: int
    """Read and written."""
    product_seconds: float
    product_operations: int
    launch_seconds: float
    """Of next to nothing."""

    @property
    def bytes_per_second(self) -> float:
        """Of a copy."""
        return self.copied_bytes / self.copy_seconds

    @property
    def operations_per_second(self) -> float:
        """Of a matrix product, float32 as PyTorch is set (TensorFloat-32 is off unless asked)."""
        return self.product_operations / self.product_seconds

    def floor(self, work: Work) -> float:
        """The seconds below which work cannot be done, however well it is programmed."""
        by_bytes = work.bytes / self.bytes_per_second
        return max(by_bytes, work.operations / self.operations_per_second)


def measure_ceilings(bench: Bench) -> Ceilings:
    """Copy, multiply, and do nothing."""
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
