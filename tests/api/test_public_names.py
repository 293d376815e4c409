"""What `import pmni` promises: it is quick, and every public name is there and documented."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import pmni

API_PAGE = Path(__file__).resolve().parents[2] / "docs/api.md"


def test_importing_imports_nothing_heavy() -> None:
    code = "import sys, pmni; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [name for name in pmni.__all__ if name != "__version__"])
def test_public_names_are_documented(name: str) -> None:
    thing = getattr(pmni, name)
    assert inspect.getdoc(thing), f"pmni.{name} has no docstring"
    assert f"pmni.{name}\n" in API_PAGE.read_text(encoding="utf-8")
    if inspect.isclass(thing):
        for key, member in vars(thing).items():
            public = not key.startswith("_") and callable(getattr(thing, key, None))
            if public and inspect.isroutine(getattr(thing, key)):
                assert inspect.getdoc(member), f"pmni.{name}.{key} has no docstring"


def test_names_are_listed() -> None:
    assert set(pmni.__all__) <= set(dir(pmni))
    with pytest.raises(AttributeError, match="no attribute 'reconstrukt'"):
        pmni.reconstrukt  # noqa: B018
