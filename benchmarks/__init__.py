"""Measures how fast pmni is on a machine: `python -m benchmarks`; see README.md here."""
