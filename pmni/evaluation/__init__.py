"""Comparison of reconstructions with ground truth: protocol, metrics, tables and plots."""
