"""Verification of candidate poses against one common surface."""
