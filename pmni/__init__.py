"""Pose-free multi-view normal integration: from normal maps to a mesh and camera poses."""

__version__ = "0.1.0"
