"""Cameras and views in the formats of other software: NeuS, COLMAP, nerfstudio, JSON."""
