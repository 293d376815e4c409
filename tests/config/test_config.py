"""Settings are strict; a wrong file is named in one line that says what is wrong in it."""

from pathlib import Path

import pytest
import yaml

from pmni.config import experiment as experiments
from pmni.config.base import Settings, merge, read_yaml, settings_from_argument
from pmni.config.experiment import RunConfig, choose_objects, load_experiment, load_objects
from pmni.config.meshing import MeshSettings
from pmni.errors import InputError

HEADER = "object\tdataset\tlayout\tpath\tnormals\n"
BALL = "ball\ttoys\tsupernormal\tresources/toys/ball\tnoisy\n"
REPOSITORY = Path(__file__).resolve().parents[2]


class Inner(Settings):
    """A nested group."""

    steps: int = 3


class Outer(Settings):
    """A group with a nested one."""

    inner: Inner = Inner()
    rate: float = 0.5


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an empty `config/experiments`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / experiments.EXPERIMENTS).mkdir(parents=True)
    return tmp_path


def write_experiment(name: str, content: object) -> None:
    path = experiments.EXPERIMENTS / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 1}, "here: unknown key 'rat'; known here: inner, rate"),
        ({"inner": {"step": 1}}, "here: unknown key 'inner.step'; known here: steps"),
        ({"rate": "much"}, "here: 'rate': Input should be a valid number"),
        ({"inner": {"steps": 1.5}}, "here: 'inner.steps': Input should be a valid integer"),
        ({"inner": 3}, "here: 'inner': Input should be a valid dictionary"),
    ],
)
def test_wrong_values_are_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        Outer.parse(values, "here")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_nothing_means_defaults() -> None:
    assert Outer.parse(None, "here") == Outer()
    assert settings_from_argument(Outer, None) == Outer()


def test_settings_cannot_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().rate = 1.0  # type: ignore[misc]


def test_every_setting_is_explained() -> None:
    """The docstrings of the fields are the documentation and the JSON schema."""

    def check(schema: dict[str, object]) -> None:
        for name, field in schema.get("properties", {}).items():  # type: ignore[attr-defined]
            assert field.get("description"), f"{schema['title']}.{name} is not explained"

    for model in (experiments.Experiment, RunConfig):
        schema = model.model_json_schema()
        for group in (schema, *schema["$defs"].values()):
            check(group)


def test_merge_is_deep_and_replaces_lists() -> None:
    below = {"a": {"b": 1, "c": [1, 2]}, "d": 4}
    assert merge(below, {"a": {"c": [3]}, "d": {"e": 5}}) == {
        "a": {"b": 1, "c": [3]},
        "d": {"e": 5},
    }
    assert below == {"a": {"b": 1, "c": [1, 2]}, "d": 4}


def test_settings_argument_is_a_file_or_inline(tmp_path: Path) -> None:
    file = tmp_path / "mesh.yaml"
    file.write_text("resolution: 64\n", encoding="utf-8")
    expected = MeshSettings(resolution=64)
    assert settings_from_argument(MeshSettings, str(file)) == expected
    assert settings_from_argument(MeshSettings, '{"resolution": 64}') == expected
    assert settings_from_argument(MeshSettings, " {resolution: 64}") == expected
    assert settings_from_argument(MeshSettings, expected.model_dump_json()) == expected


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("{resolution: 64", "--settings: not valid YAML or JSON"),
        ("{size: 64}", "--settings: unknown key 'size'; known here: backend"),
        ("not/there.yaml", "not/there.yaml: cannot be read (No such file or directory)"),
    ],
)
def test_wrong_settings_argument(argument: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        settings_from_argument(MeshSettings, argument)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [\n", "line 3: not valid YAML"),
        ("- a\n- b\n", "must be a mapping of settings, not list"),
        ("a: 1\nb: 2\na: 3\n", "line 3: 'a' is there twice"),
        ("a:\n  b: 1\n  b: 2\n", "line 3: 'b' is there twice"),
    ],
)
def test_wrong_yaml_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_yaml(file)
    assert str(error.value).startswith(str(file))
    assert message in str(error.value)


def test_yaml_anchors_may_be_overridden(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n", encoding="utf-8")
    assert read_yaml(file) == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}


def test_empty_yaml_is_no_settings(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing\n", encoding="utf-8")
    assert read_yaml(file) == {}


# --- experiments --------------------------------------------------------------------------------


@pytest.mark.usefixtures("folder")
def test_an_experiment_holds_what_differs_from_its_base() -> None:
    write_experiment("a", {"summary": "first", "train": {"steps": 7, "seed": 3}})
    write_experiment("b", {"base": "a", "train": {"steps": 9}})
    write_experiment("c", {"base": "b", "mesh": {"resolution": 32}})
    found = load_experiment("c", {"train": {"seed": 4}})
    assert (found.summary, found.train.steps, found.train.seed) == ("first", 9, 4)
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
    assert fast.refine.device == full.refine.device == "cpu"
    assert (full.train.seed, network.train.seed) == (4, 4)
    assert again.train.steps == 5
    assert [each.kept_steps() for each in (full, fast, network)] == [(0, 3, 7), (0,), (3, 7)]
    assert [each.candidates() for each in (full, fast, network)] == [(0, 7), (0,), (7,)]
    assert load_experiment("full", {"train": None}).train is None


@pytest.mark.usefixtures("folder")
def test_held_out_views_reach_training_and_evaluation() -> None:
    write_experiment("a", {"exclude_views": ["03", "07"]})
    found = load_experiment("a", {})
    for settings in (found.refine, found.train, found.evaluate):
        assert settings.exclude_views == ("03", "07")
    assert load_experiment("a", {"exclude_views": []}).train.exclude_views == ()
    write_experiment("b", {"base": "a", "train": None})
    found = load_experiment("b", {})
    assert found.train is None
    assert found.refine.exclude_views == ("03", "07")


@pytest.mark.usefixtures("folder")
def test_pixels_are_held_out_where_there_are_two_surfaces_to_compare() -> None:
    write_experiment("full", {"heldout": 0.2})
    write_experiment("fast", {"base": "full", "train": None})
    write_experiment("network", {"base": "full", "refine": None})
    full = load_experiment("full", {})
    assert full.refine.heldout == full.train.heldout == 0.2
    assert load_experiment("full", {"heldout": 0.0}).train.heldout == 0
    assert load_experiment("fast", {}).refine.heldout == 0
    assert load_experiment("network", {}).train.heldout == 0


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
    assert load_experiment("free", {}).train.steps == 7
    assert load_experiment("free", {}).train.patches == 512


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
