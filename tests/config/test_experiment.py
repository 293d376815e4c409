"""Experiments and the table of objects; a wrong file is named in one line."""

from pathlib import Path

import pytest
import yaml

from pmni.config import experiment as experiments
from pmni.config.base import merge, read_yaml
from pmni.config.experiment import (
    Experiment,
    RunConfig,
    choose_objects,
    load_experiment,
    load_objects,
)
from pmni.config.refinement import RefineSettings
from pmni.config.training import TrainSettings
from pmni.errors import InputError

HEADER = "object\tdataset\tlayout\tpath\tnormals\n"
BALL = "ball\ttoys\tsupernormal\tresources/toys/ball\tnoisy\n"
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an empty `config/experiments`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / experiments.EXPERIMENTS).mkdir(parents=True)
    return tmp_path


def write_experiment(name: str, content: object) -> None:
    path = experiments.EXPERIMENTS / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def train(experiment: Experiment) -> TrainSettings:
    """The settings of `train` of an experiment that has them."""
    assert experiment.train is not None
    return experiment.train


def refine(experiment: Experiment) -> RefineSettings:
    """The settings of `refine` of an experiment that has them."""
    assert experiment.refine is not None
    return experiment.refine


# --- experiments --------------------------------------------------------------------------------


@pytest.mark.usefixtures("folder")
def test_an_experiment_holds_what_differs_from_its_base() -> None:
    write_experiment("a", {"summary": "first", "train": {"steps": 7, "seed": 3}})
    write_experiment("b", {"base": "a", "train": {"steps": 9}})
    write_experiment("c", {"base": "b", "mesh": {"resolution": 32}})
    found = load_experiment("c", {"train": {"seed": 4}})
    assert (found.summary, train(found).steps, train(found).seed) == ("first", 9, 4)
    assert found.mesh.resolution == 32


@pytest.mark.usefixtures("folder")
def test_a_stage_that_is_left_out_stays_out_whatever_is_laid_over_all_experiments() -> None:
    write_experiment("full", {"train": {"steps": 7, "checkpoints": [3]}})
    write_experiment("fast", {"base": "full", "train": None})
    write_experiment("network", {"base": "full", "refine": None})
    write_experiment("again", {"base": "fast", "train": {"steps": 5}})
    overrides = {"train": {"seed": 4}, "refine": {"device": "cpu"}}
    full, fast, network, again = (
        load_experiment(name, overrides) for name in ("full", "fast", "network", "again")
    )
    assert fast.train is None
    assert network.refine is None
    assert refine(fast).device == refine(full).device == "cpu"
    assert (train(full).seed, train(network).seed) == (4, 4)
    assert train(again).steps == 5
    assert [each.kept_steps() for each in (full, fast, network)] == [(0, 3, 7), (0,), (3, 7)]
    assert [each.candidates() for each in (full, fast, network)] == [(0, 7), (0,), (7,)]
    assert load_experiment("full", {"train": None}).train is None


@pytest.mark.usefixtures("folder")
def test_held_out_views_reach_training_and_evaluation() -> None:
    write_experiment("a", {"exclude_views": ["03", "07"]})
    found = load_experiment("a", {})
    for settings in (refine(found), train(found), found.evaluate):
        assert settings.exclude_views == ("03", "07")
    assert train(load_experiment("a", {"exclude_views": []})).exclude_views == ()
    write_experiment("b", {"base": "a", "train": None})
    found = load_experiment("b", {})
    assert found.train is None
    assert refine(found).exclude_views == ("03", "07")


@pytest.mark.usefixtures("folder")
def test_pixels_are_held_out_where_there_are_two_surfaces_to_compare() -> None:
    write_experiment("full", {"heldout": 0.2})
    write_experiment("fast", {"base": "full", "train": None})
    write_experiment("network", {"base": "full", "refine": None})
    full = load_experiment("full", {})
    assert refine(full).heldout == train(full).heldout == 0.2
    assert train(load_experiment("full", {"heldout": 0.0})).heldout == 0
    assert refine(load_experiment("fast", {})).heldout == 0
    assert train(load_experiment("network", {})).heldout == 0


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("files", "name", "overrides", "message"),
    [
        (
            {"a": {}},
            "b",
            {},
            "unknown experiment 'b': there is no config/experiments/b.yaml; known: a, calibrated",
        ),
        ({"state": {}}, "state", {}, "experiment 'state': this name cannot be used"),
        ({"a": {}}, "../a", {}, "experiment '../a': this name cannot be used"),
        ({"a": {"base": "b"}, "b": {"base": "a"}}, "a", {}, "its `base` leads back to itself"),
        ({"a": {"base": "z"}}, "a", {}, "config/experiments/a.yaml: unknown base 'z'; known: a, "),
        ({"a": {"trian": {}}}, "a", {}, "config/experiments/a.yaml: unknown key 'trian'"),
        ({"a": {}}, "a", {"trian": {}}, "config/experiments/a.yaml with overrides: unknown key"),
        (
            {"a": {"train": {"exclude_views": ["01"]}}},
            "a",
            {},
            "give 'exclude_views' at the top of the experiment, not in 'train'",
        ),
        ({"a": {"refine": {"heldout": 0.1}}}, "a", {}, "give 'heldout' at the top of the experi"),
        ({"a": {"refine": {"dvice": "cpu"}}}, "a", {}, "unknown key 'refine.dvice'; known here: "),
        ({"a": {"refine": None, "train": None}}, "a", {}, "refine and train cannot both be null"),
        ({"a": {"train": None}}, "a", {"refine": None}, "refine and train cannot both be null"),
    ],
)
def test_wrong_experiments(
    files: dict[str, object], name: str, overrides: dict[str, object], message: str
) -> None:
    for file, content in files.items():
        write_experiment(file, content)
    with pytest.raises(InputError) as error:
        load_experiment(name, overrides)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "path",
    [
        *sorted((REPOSITORY / "config/experiments").glob("*.yaml")),
        *sorted(experiments.SHIPPED_EXPERIMENTS.glob("*.yaml")),
    ],
    ids=lambda path: path.stem,
)
def test_experiments_of_the_project_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert load_experiment(path.stem, {}).summary


@pytest.mark.usefixtures("folder")
def test_shipped_experiments_are_found_everywhere_and_can_be_replaced() -> None:
    assert load_experiment("fast", {}).train is None
    write_experiment("fast", {"base": "calibrated", "summary": "Mine."})
    assert load_experiment("fast", {}).registration.method == "reference"
    write_experiment("free", {"base": "free", "summary": "Mine.", "train": {"steps": 7}})
    assert train(load_experiment("free", {})).steps == 7
    assert train(load_experiment("free", {})).patches == 512


@pytest.mark.parametrize("overlay", [None, "config/demo.yaml", "config/full-size.yaml"])
def test_configurations_of_the_project_are_valid(
    overlay: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    values = read_yaml(Path("config/config.yaml"))
    if overlay:
        values = merge(values, read_yaml(Path(overlay)))
    config = RunConfig.parse(values, "configuration")
    objects = choose_objects(config)
    assert objects
    for name in config.experiments:
        load_experiment(name, config.overrides)
    if overlay:
        assert set(objects) == set(config.scenes)


# --- the table of objects -----------------------------------------------------------------------


def test_the_table_is_read(tmp_path: Path) -> None:
    table = tmp_path / "objects.tsv"
    table.write_text(f"# toys\n{HEADER}\n{BALL}# the end\n", encoding="utf-8-sig")
    found = load_objects(table)["ball"]
    assert (found.dataset, found.layout, found.path, found.normals) == (
        "toys",
        "supernormal",
        "resources/toys/ball",
        "noisy",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the first line must be the columns object, dataset, layout, path, normals"),
        ("object,dataset\n", "the first line must be the columns"),
        (HEADER, "there is no object in the table"),
        (HEADER + BALL + BALL, "object 'ball' is there twice"),
        (HEADER + BALL.replace("\tnoisy", ""), "object 'ball': must have a value in each"),
        (HEADER + BALL.replace("noisy", "noisy\tmore"), "object 'ball': must have a value in each"),
        (
            HEADER + BALL.replace("supernormal", "super"),
            "unknown layout 'super'; known: supernormal",
        ),
        (HEADER + BALL.replace("ball\ttoys", "a/b\ttoys"), "object 'a/b' may hold only letters"),
        (HEADER + BALL.replace("noisy", "no isy"), "normals 'no isy' may hold only letters"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "objects.tsv"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        load_objects(table)
    assert str(error.value).startswith(f"{table}: ")
    assert message in str(error.value)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"objects\.tsv: cannot be read \(No such file"):
        load_objects(tmp_path / "objects.tsv")


@pytest.mark.parametrize(
    ("row", "values", "message"),
    [
        (BALL, {"only": ["bull"]}, "unknown object 'bull': config/objects.tsv has ball"),
        (BALL, {"scenes": {"bull": {}}}, "scenes: unknown object 'bull'"),
        (BALL.replace("toys/ball", "ball"), {"scenes": {"ball": {}}}, "path resources/toys/ball"),
        (BALL.replace("supernormal", "custom"), {"scenes": {"ball": {}}}, "must be supernormal"),
    ],
)
def test_wrong_choices(folder: Path, row: str, values: dict[str, object], message: str) -> None:
    (folder / "config/objects.tsv").write_text(HEADER + row, encoding="utf-8")
    with pytest.raises(InputError) as error:
        choose_objects(RunConfig.parse(values, "configuration"))
    assert message in str(error.value)


def test_only_keeps_its_order(folder: Path) -> None:
    rows = BALL + BALL.replace("ball", "cube")
    (folder / "config/objects.tsv").write_text(HEADER + rows, encoding="utf-8")
    assert list(choose_objects(RunConfig())) == ["ball", "cube"]
    assert list(choose_objects(RunConfig(only=("cube", "ball")))) == ["cube", "ball"]
