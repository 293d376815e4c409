"""The bundled three.js: its version and licence."""

import json
import re

import pytest

from pmni.reporting.page import SCRIPTS, TEMPLATES, THREE


@pytest.fixture(scope="module")
def bundle() -> str:
    return THREE.read_text(encoding="utf-8")


def test_bundle_is_of_the_locked_version(bundle: str) -> None:
    lock = json.loads(THREE.with_name("package-lock.json").read_text(encoding="utf-8"))
    version = lock["packages"]["node_modules/three"]["version"]
    assert bundle.startswith(f"/*!\nthree.js {version}, ")


def test_bundle_carries_its_licence(bundle: str) -> None:
    licence = THREE.with_name("LICENSE").read_text(encoding="utf-8")
    assert "three.js authors" in licence
    assert licence.strip() in bundle


def test_scripts_use_only_what_the_bundle_exports(bundle: str) -> None:
    entry = THREE.with_name("entry.js").read_text(encoding="utf-8")
    exported = set(re.findall(r"\w+", " ".join(re.findall(r"\{([^}]*)\}", entry))))
    scripts = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    assert set(re.findall(r"\bTHREE\.(\w+)", scripts)) == exported
