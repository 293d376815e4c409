"""How well two views fit each other at given poses, and which poses those may be."""
