"""A stand-in for the `pmni` command that leaves each stage's files behind within milliseconds.

`install` puts it into a folder for PATH. Every call is a line of JSON in the log beside it. A call
whose command line holds a line of the file `fail` there fails, as does preparing a folder that is
not there; one that holds a line of the file `hang` does not end; those that hold a line of the file
`meet` end when two of them have run at the same time, and fail when that does not happen.
"""

import json
import os
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path

STAGE_SECONDS = 0.15

SCRIPT = """#!{python} -I
import fcntl, json, os, pathlib, sys, time
here = pathlib.Path(__file__).parent
stage, words = sys.argv[1], sys.argv[2:]
if stage == "standby":
    socket = pathlib.Path(words[0])
    socket.touch()
    sys.stdin.read()
    socket.unlink()
    socket.parent.rmdir()
    sys.exit()
start = time.time()
options, key = {{}}, None
for word in words:
    if word.startswith("--"):
        key = word[2:]
        options[key] = []
    else:
        options[key].append(word)
output = pathlib.Path(options["output"][0])
settings = json.loads(options.get("settings", ["{{}}"])[0])
time.sleep({seconds})

def write(path, text="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{{text}} {{time.time()}}")

def told(name):
    parts = (here / name).read_text().splitlines() if (here / name).exists() else []
    return any(part in " ".join([stage, *words]) for part in parts)

code = 0
if told("hang"):
    (here / "hanging").touch()
    time.sleep(600)
if told("meet"):
    (here / f"met_{{time.time()}}").touch()
    deadline = time.time() + 60
    while len(list(here.glob("met_*"))) < 2 and time.time() < deadline:
        time.sleep(0.02)
    if time.time() >= deadline:
        print("nobody came", file=sys.stderr)
        sys.exit(3)
if told("fail"):
    print(f"pmni {{stage}}: error: made to fail", file=sys.stderr)
    code = 2
elif stage == "prepare" and not pathlib.Path(options["path"][0]).is_dir():
    print(f"pmni prepare: error: {{options['path'][0]}}: no such folder", file=sys.stderr)
    code = 2
elif stage == "fetch":
    output.mkdir(parents=True, exist_ok=True)
    for name in ("bear", "cow"):
        write(output / name / "cameras_sphere.npz")
elif stage == "synthesize":
    write(output / "K.txt")
elif stage == "train":
    for name in ("poses", "surface"):
        assert all(pathlib.Path(file).is_file() for file in options.get(name, []))
    for step in {{*settings["checkpoints"], settings["steps"]}}:
        write(output / f"checkpoints/iter_{{step:08d}}.safetensors")
        write(output / f"poses/iter_{{step:08d}}.json")
    write(output / "tensorboard/events")
    for name in ("history.csv", "selection.json", "provenance.json"):
        write(output / name)
    write(pathlib.Path(options["state"][0]) / "state")
elif stage == "mesh":
    assert pathlib.Path(options["checkpoint"][0]).is_file()
    write(output)
    write(output.with_suffix(".provenance.json"))
elif stage == "render":
    assert pathlib.Path(options["checkpoint"][0]).is_file()
    assert pathlib.Path(options["poses"][0]).is_file()
    write(output / "00.exr")
elif stage == "evaluate":
    assert pathlib.Path(options["mesh"][0]).is_file()
    assert pathlib.Path(options["poses"][0]).is_file()
    write(output)
    write(output.with_suffix(".errors.npz"))
    write(output.with_suffix(".provenance.json"))
elif stage == "collect":
    write(output, " ".join(options["metrics"]))
elif stage == "report":
    write(output / "index.html")
elif stage == "study":
    write(output / "table.md")
    write(output / "table.csv")
else:
    for folder in options.get("ray-distances", []):
        assert (pathlib.Path(folder) / "ray_distance.npz").is_file()
    for name in ("poses", "mesh", "selection"):
        assert all(pathlib.Path(file).is_file() for file in options.get(name, []))
    names = {{
        "prepare": ["capture.npz", "cameras.json", "preview.png"],
        "integrate": ["ray_distance.npz", "preview.png"],
        "register": ["initial_poses.json"],
        "export": ["poses.json", "cameras_sphere.npz", "cameras.png"],
        "refine": [
            "refined_poses.json", "surface.safetensors", "surface.safetensors.sha256",
            "history.csv",
        ],
    }}[stage]
    for name in [*names, "provenance.json"]:
        write(output / name)
with (here / "log").open("a") as log:
    fcntl.flock(log, fcntl.LOCK_EX)
    call = dict(stage=stage, options=options, start=start, end=time.time(), code=code)
    call["standby"] = os.environ.get("PMNI_STANDBY")
    log.write(json.dumps(call) + "\\n")
sys.exit(code)
"""


@dataclass(frozen=True)
class Call:
    """One call of the stand-in."""

    stage: str
    options: dict[str, list[str]]
    start: float
    end: float
    code: int
    standby: str | None
    """The socket of the process on standby."""

    @property
    def output(self) -> str:
        """The call's `--output`."""
        return self.options["output"][0]


@dataclass(frozen=True)
class FakePmni:
    """The folder with the stand-in."""

    folder: Path

    def calls(self) -> list[Call]:
        """All calls since the last time, in the order in which they ended; forgets them."""
        log = self.folder / "log"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [Call(**json.loads(line)) for line in lines]

    def fail(self, *parts: str) -> None:
        """Calls whose command line holds one of `parts` fail from now on, the others do not."""
        (self.folder / "fail").write_text("\n".join(parts), encoding="utf-8")

    def hang(self, *parts: str) -> None:
        """Calls whose command line holds one of `parts` do not end from now on."""
        (self.folder / "hang").write_text("\n".join(parts), encoding="utf-8")

    def meet(self, *parts: str) -> None:
        """Calls whose command line holds one of `parts` end when two have run at the same time."""
        for file in self.folder.glob("met_*"):
            file.unlink()
        (self.folder / "meet").write_text("\n".join(parts), encoding="utf-8")

    def wait_until_hanging(self, timeout: float = 60.0) -> None:
        """Wait until a call hangs."""
        deadline = time.monotonic() + timeout
        while not (self.folder / "hanging").exists():
            if time.monotonic() > deadline:
                raise TimeoutError("no call hangs")
            time.sleep(0.05)

    def environment(self) -> dict[str, str]:
        """The environment in which `pmni` is the stand-in."""
        return {**os.environ, "PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}"}


def install(folder: Path) -> FakePmni:
    """Write the stand-in into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "pmni"
    script.write_text(SCRIPT.format(python=sys.executable, seconds=STAGE_SECONDS), encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return FakePmni(folder)
