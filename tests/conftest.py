"""Shapes and types of public functions are checked at run time in all tests."""

from jaxtyping import install_import_hook

install_import_hook("pmni", "beartype.beartype")
