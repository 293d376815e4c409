"""Readers of dataset folders, one file each; registered in pmni.config.extensions."""
