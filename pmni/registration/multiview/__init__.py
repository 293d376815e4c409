"""Candidates: poses of all views from those of pairs."""
