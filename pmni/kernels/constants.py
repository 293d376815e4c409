"""Constants that kernels share with their PyTorch reference implementations."""

BLOCK = 4
"""Nodes along a side of a block of a sparse grid."""
HASH_PRIMES = (1, 2654435761, 805459861)
"""Factors of the spatial hash of grid nodes (Teschner et al. 2003; Müller et al. 2022, eq. 4)."""
ALPHA_EPSILON = 1e-5
"""Number added to numerator and denominator of the opacity alpha (NeuS, eq. 13)."""
LENGTH_EPSILON = 1e-9
"""Number added to a squared length before its root, against an infinite derivative at zero."""
MIN_OPACITY = 1e-3
"""Opacities are clamped to [MIN_OPACITY, 1 - MIN_OPACITY] in the cross-entropy of the mask."""
LOW_32_BITS = 0xFFFFFFFF
"""Mask of the low 32 bits of an integer."""
GOLDEN_RATIO = 0x9E3779B9
"""Fractional part of the golden ratio in 32 bits, which tells streams of random numbers apart."""
HASH_FACTOR_1 = 0x7FEB352D
"""First factor of the integer hash `lowbias32` (C. Wellons, hash-prospector, 2018)."""
HASH_FACTOR_2 = 0x846CA68B
"""Second factor of the integer hash `lowbias32`."""
