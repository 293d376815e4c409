"""The captures of an accuracy study."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.study_scene import SETTINGS, study

from pmni.config.experiment import RunConfig, choose_objects
from pmni.errors import InputError

REPOSITORY = Path(__file__).parents[2]


class TestCaptures:
    def test_one_factor_at_a_time(self) -> None:
        cells = study().cells()
        assert [cell.name for cell in cells] == [
            "ball-base", "ball-noise-0", "ball-noise-8", "ball-masks-1-ragged",
            "knot-base", "knot-noise-0", "knot-noise-8", "knot-masks-1-ragged", "pot-base",
        ]  # fmt: skip
        worse = cells[3]
        assert worse.levels == {"noise": "4", "masks": "1, ragged"}
        assert worse.changed == ("masks",)
        assert (worse.settings.scene, worse.settings.views) == ("blob", 6)
        assert (worse.settings.normal_noise, worse.settings.mask_jitter) == (4.0, 1.0)

    def test_full_product_and_seeds(self) -> None:
        cells = study(design="full").cells()
        assert len(cells) == 2 * 3 * 2 + 1
        assert "ball-noise-8-masks-1-ragged" in {cell.name for cell in cells}
        twice = study(seeds=[1, 2]).cells()
        assert len(twice) == 2 * len(study().cells())
        assert {cell.settings.seed for cell in twice} == {1, 2}
        assert twice[0].name == "ball-base-seed1"

    def test_without_factors_there_is_the_base_case(self) -> None:
        names = [cell.name for cell in study(factors={}).cells()]
        assert names == ["ball-base", "knot-base", "pot-base"]

    def test_they_are_the_objects_of_the_run(self) -> None:
        config = RunConfig.parse({"study": SETTINGS}, "test")
        assert RunConfig.parse(config.model_dump(exclude={"scenes"}), "again") == config
        objects = choose_objects(config)
        assert list(objects) == list(config.scenes) == [cell.name for cell in study().cells()]
        exact, noisy = objects["ball-noise-0"], objects["ball-base"]
        assert exact.normals == "normal_camera_space_GT"
        assert noisy.normals == "normal_camera_space_noisy"
        assert noisy.path == "resources/study/ball-base"
        only = RunConfig.parse({"study": SETTINGS, "only": ["pot-base"]}, "test")
        assert list(choose_objects(only)) == ["pot-base"]

    def test_the_studies_in_the_repository(self) -> None:
        for path in (REPOSITORY / "config").glob("study*.yaml"):
            config = RunConfig.parse(yaml.safe_load(path.read_text()), str(path))
            assert config.study is not None
            assert not any(cell.settings.known_poses for cell in config.study.cells())

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"base": {"vews": 3}}, "study: ball-base: unknown key 'vews'"),
            ({"factors": {"a": {"title": "", "levels": {"1": {"views": 3}}}}}, "exactly one level"),
            (
                {"factors": {"a": {"title": "", "levels": {"1": {}, "2 px": {"views": 3},
                                                           "2-px": {"views": 4}}}}},
                "two captures would be called 'ball-a-2-px'",
            ),
        ],
    )  # fmt: skip
    def test_errors(self, changes: dict[str, Any], says: str) -> None:
        with pytest.raises(InputError, match=says):
            study(**changes).cells()
