"""Candidates put to the test of one common surface."""
