"""Broken input: one clear line that names file and view, exit code 2, nothing written."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fixtures.capture_files import spheres, write_custom, write_diligent, write_supernormal
from scipy.io import loadmat, savemat

from pmni.cli.main import main
from pmni.config.capture import ValidationSettings
from pmni.data.capture import Capture
from pmni.data.validation import check_assignment, contour_correlation, normalised
from pmni.io.images import read_normal_map, write_mask, write_normal_map

SET = "normal_camera_space_x"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("pristine")
    write_supernormal(root / "supernormal", spheres())
    write_diligent(root / "diligent_mv", spheres())
    write_custom(root / "custom", spheres(), poses=True)
    return root


@pytest.fixture
def folders(tmp_path: Path, pristine: Any) -> Any:
    """A fresh copy of every layout, to be broken."""
    shutil.copytree(pristine, tmp_path / "data")
    return tmp_path / "data"


def prepare(folders: Any, layout: str, normals: Any, *more: Any) -> Any:
    command = ["prepare", "--name", "ball", "--layout", layout, "--normals", normals]
    command += ["--path", str(folders / layout), "--output", str(folders.parent / "out" / "x")]
    return main([*command, *more])


def assert_refused(
    capsys: pytest.CaptureFixture[str], folders: Any, layout: str, normals: Any, *parts: Any
) -> None:
    """Exit code 2, a single line with all `parts` on standard error, no output of any kind."""
    capsys.readouterr()
    assert prepare(folders, layout, normals) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("pmni prepare: error: ")
    for part in parts:
        assert part in lines[0]
    assert not list((folders.parent / "out").rglob("*"))


def change_cameras(folders: Any, change: Any) -> None:
    path = folders / "supernormal" / "cameras_sphere.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(path, **arrays)


def change_normals(path: Path, change: Any) -> None:
    write_normal_map(path, change(read_normal_map(path)))


def test_sound_folders_pass(folders: Any) -> None:
    """The tests below break one thing each in folders that are otherwise right."""
    assert prepare(folders, "supernormal", SET) == 0
    assert prepare(folders, "diligent_mv", "Normal_gt") == 0
    assert prepare(folders, "custom", "ps") == 0


def test_no_such_folder_or_set(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    assert_refused(capsys, folders, "supernormal", "normal_camera_space_y", SET, "no such folder")
    assert_refused(capsys, folders, "supernormal", "mask", "must begin with normal_camera_space")
    assert_refused(capsys, folders, "custom", "sdm", "custom/sdm: no such folder")
    shutil.rmtree(folders / "custom")
    assert_refused(capsys, folders, "custom", "ps", "custom: no such folder (object 'ball')")


@pytest.mark.parametrize("kind", ["normals", "mask", "camera", "truth", "distance"])
def test_missing_view(capsys: pytest.CaptureFixture[str], folders: Any, kind: str) -> None:
    root = folders / "supernormal"
    if kind == "camera":
        change_cameras(folders, lambda arrays: arrays.pop("world_mat_3"))
        expected = ("cameras_sphere.npz", "view 03", "no camera")
    else:
        folder, suffix, expected = {
            "normals": (SET, ".exr", (SET, "view 3", "missing")),
            "mask": ("mask", ".png", ("mask", "view 03", "no mask")),
            "truth": (
                "normal_camera_space_GT",
                ".exr",
                ("normal_camera_space_GT", "view 03", "no ground truth"),
            ),
            "distance": (
                "integration/perspective",
                ".npy",
                ("integration/perspective", "view 03", "no ray distances"),
            ),
        }[kind]
        (root / folder / f"03{suffix}").unlink()
    assert_refused(capsys, folders, "supernormal", SET, *expected)


def test_missing_view_of_other_layouts(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    shutil.rmtree(folders / "diligent_mv" / "view_02")
    assert_refused(capsys, folders, "diligent_mv", "Normal_gt", "view 2: missing", "Calib_Results")
    (folders / "custom" / "masks" / "shot1.png").unlink()
    assert_refused(capsys, folders, "custom", "ps", "masks: view shot1: no mask", "shot1.exr")


def test_missing_files_of_diligent_mv(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    view = folders / "diligent_mv" / "view_02"
    assert_refused(capsys, folders, "diligent_mv", "ps", "view_01: view view_01: no normal map ps")
    (view / "mask.png").unlink()
    assert_refused(capsys, folders, "diligent_mv", "Normal_gt", "mask.png: view view_02", "no such")
    (folders / "diligent_mv" / "Calib_Results.mat").unlink()
    assert_refused(capsys, folders, "diligent_mv", "Normal_gt", "Calib_Results.mat: no such file")


def test_duplicate_identifiers(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    mask = folders / "supernormal" / "mask"
    shutil.copy(mask / "01.png", mask / "1.png")
    assert_refused(capsys, folders, "supernormal", SET, "1.png: view 1 is there twice")


def test_wrong_size(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    change_normals(folders / "supernormal" / SET / "02.exr", lambda n: n[:-1])
    expected = ("02.exr: view 02", "56 x 47 pixels", "mask/02.png is 56 x 48")
    assert_refused(capsys, folders, "supernormal", SET, *expected)
    write_mask(folders / "diligent_mv" / "view_03" / "mask.png", np.ones((48, 50), bool))
    expected = ("view_03/mask.png: view view_03", "50 x 48")
    assert_refused(capsys, folders, "diligent_mv", "Normal_gt", *expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_normals_that_are_not_finite(
    capsys: pytest.CaptureFixture[str], folders: Any, value: Any
) -> None:
    row, column = np.argwhere(spheres().masks[2])[40]

    def spoil(normals: Any) -> Any:
        normals[row, column, 1] = value
        return normals

    change_normals(folders / "supernormal" / SET / "02.exr", spoil)
    expected = ("02.exr: view 02", "1 normals", "NaN", f"row {row}, column {column}")
    assert_refused(capsys, folders, "supernormal", SET, *expected)


def test_nan_outside_the_mask_does_not_matter(folders: Any) -> None:
    change_normals(
        folders / "supernormal" / SET / "02.exr",
        lambda normals: np.where(spheres().masks[2][..., None], normals, np.nan),
    )
    assert prepare(folders, "supernormal", SET) == 0


def test_nan_in_the_ground_truth(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    change_normals(
        folders / "supernormal" / "normal_camera_space_GT" / "02.exr", lambda n: n * np.nan
    )
    expected = ("normal_camera_space_GT/02.exr: view 02", "NaN")
    assert_refused(capsys, folders, "supernormal", SET, *expected)


def test_normals_of_zero_length(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    def blank(normals: Any) -> Any:
        normals[:24] = 0
        return normals

    change_normals(folders / "custom" / "ps" / "shot2.exr", blank)
    expected = ("shot2.exr: view shot2", "% of the mask has normals of length zero")
    assert_refused(capsys, folders, "custom", "ps", *expected)


def test_normals_in_another_encoding(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    """Colours from 0 to 1 instead of vectors."""
    for file in (folders / "custom" / "ps").iterdir():
        change_normals(file, lambda normals: (normals + 1) / 2)
    expected = ("shot0.exr: view shot0", "not of unit length", "encoded")
    assert_refused(capsys, folders, "custom", "ps", *expected)


@pytest.mark.parametrize(
    ("signs", "says"),
    [
        ([1, -1, -1], "100% of the normals point away"),
        ([1, 1, -1], "100% of the normals point away"),
        ([1, -1, 1], "the y axis looks flipped"),
        ([-1, 1, 1], "the x axis looks flipped"),
    ],
)
def test_wrong_axes(
    capsys: pytest.CaptureFixture[str], folders: Any, signs: Any, says: Any
) -> None:
    """OpenCV axes, z flipped, y down (as in DirectX normal maps), x to the left."""
    for file in (folders / "custom" / "ps").iterdir():
        change_normals(file, lambda normals: normals * signs)
    assert_refused(capsys, folders, "custom", "ps", says, "x right, y up, z towards the camera")


def test_swapped_axes_and_channels(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    originals = folders / "custom" / "ps"
    shutil.copytree(originals, folders / "custom" / "yxz")
    for file in (folders / "custom" / "yxz").iterdir():
        change_normals(file, lambda normals: normals[..., [1, 0, 2]])
    assert_refused(capsys, folders, "custom", "yxz", "the x and y axes of the normals look swapped")
    for file in originals.iterdir():
        change_normals(file, lambda normals: normals[..., ::-1])
    assert_refused(
        capsys, folders, "custom", "ps", "point away from the camera: the axes look wrong"
    )


def swap(a: Any, b: Any) -> None:
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


@pytest.mark.parametrize("layout", ["supernormal", "custom"])
def test_swapped_normal_files(
    capsys: pytest.CaptureFixture[str], folders: Any, layout: str
) -> None:
    folder, names = {
        "supernormal": (SET, ("01.exr", "03.exr")),
        "custom": ("ps", ("shot1.exr", "shot3.exr")),
    }[layout]
    swap(*(folders / layout / folder / name for name in names))
    views = [name[:-4] for name in names]
    expected = (f"{names[0]}: view {views[0]}", f"fit the mask of view {views[1]}", "swapped?")
    assert_refused(capsys, folders, layout, folder, *expected)


def test_swapped_masks(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    swap(*(folders / "custom" / "masks" / name for name in ("shot0.png", "shot4.png")))
    assert_refused(capsys, folders, "custom", "ps", "view shot0", "mask of view shot4", "swapped?")


def test_swapped_normals_and_masks_disagree_with_poses(
    capsys: pytest.CaptureFixture[str], folders: Any
) -> None:
    """Consistent with each other, but not with the ground truth of the views."""
    root = folders / "supernormal"
    swap(root / SET / "01.exr", root / SET / "03.exr")
    swap(root / "mask" / "01.png", root / "mask" / "03.png")
    shutil.rmtree(root / "integration")
    assert_refused(capsys, folders, "supernormal", SET, "GT/01.exr: view 01", "swapped?")


def test_copied_view(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    """A file that holds another view's normals."""
    folder = folders / "custom" / "ps"
    shutil.copy(folder / "shot3.exr", folder / "shot1.exr")
    assert_refused(capsys, folders, "custom", "ps", "shot1.exr: view shot1")


def test_masks_all_a_little_larger_or_smaller_are_not_swapped() -> None:
    """Bodies of revolution: all silhouettes alike, normals eroded by differing amounts."""
    yy, xx = np.mgrid[:60, :60]
    radii = [20.0, 21.0, 22.0, 23.0]
    masks = [np.hypot(yy - 30, xx - 30) < radius for radius in radii]
    regions = [
        np.hypot(yy - 30, xx - 30) < r - e for r, e in zip(radii, [1.2, 2, 1, 2.5], strict=True)
    ]
    normals = [np.where(region[..., None], [0, 0, -1.0], 0) for region in regions]
    check_assignment(normals, masks, list("abcd"), list("abcd"), ValidationSettings())


def test_empty_mask(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    for path in (
        "supernormal/mask/02.png",
        "diligent_mv/view_03/mask.png",
        "custom/masks/shot2.png",
    ):
        write_mask(folders / path, np.zeros((48, 56), bool))
    assert_refused(capsys, folders, "supernormal", SET, "mask/02.png: view 02: the mask is empty")
    expected = "view_03/mask.png: view view_03: the mask is empty"
    assert_refused(capsys, folders, "diligent_mv", "Normal_gt", expected)
    assert_refused(capsys, folders, "custom", "ps", "shot2.png: view shot2: the mask is empty")


@pytest.mark.parametrize(
    "path", ["normal_camera_space_x/03.exr", "mask/03.png", "cameras_sphere.npz", "mesh_Gt.ply"]
)
def test_truncated_files(capsys: pytest.CaptureFixture[str], folders: Any, path: Path) -> None:
    file = folders / "supernormal" / path
    file.write_bytes(file.read_bytes()[:-200])
    view = "(view 03)" if "03" in path else ""
    assert_refused(capsys, folders, "supernormal", SET, f"{path}: ", "truncated", view)


def test_truncated_matlab_files(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    for path in ("view_02/Normal_gt.mat", "Calib_Results.mat"):
        file = folders / "diligent_mv" / path
        file.write_bytes(file.read_bytes()[:-300])
        expected = (f"{path}: ", "truncated", "(view view_02)" if "02" in path else "")
        assert_refused(capsys, folders, "diligent_mv", "Normal_gt", *expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda P: np.diag([1.5, 1, 1, 1]) @ P, "K of K.txt"),
        (lambda P: np.diag([1, 1, 2, 1]) @ P, "not K [R | t] with a proper rotation"),
        (lambda P: P @ np.diag([1, 1, -1, 1]), "mirrored"),
        (lambda P: P @ np.diag([1, 0, 1, 1]), "singular"),
        (lambda P: P @ np.diag([1.3, 1, 1, 1]), "not K [R | t] with a proper rotation"),
        (lambda P: P * np.nan, "not a finite 4 x 4 matrix"),
        (lambda P: P[:2], "not a finite 4 x 4 matrix"),
    ],
)
def test_camera_that_is_not_a_rotation(
    capsys: pytest.CaptureFixture[str], folders: Any, change: Any, says: Any
) -> None:
    change_cameras(folders, lambda a: a.update(world_mat_2=change(a["world_mat_2"])))
    assert_refused(capsys, folders, "supernormal", SET, "cameras_sphere.npz: view ", "2: ", says)


@pytest.mark.parametrize("change", ["stretched", "turned", "differs", "negative", "absent"])
def test_scale_mat_that_is_no_normalisation(
    capsys: pytest.CaptureFixture[str], folders: Any, change: Any
) -> None:
    def spoil(arrays: Any) -> None:
        matrix = arrays["scale_mat_2"].copy()
        if change == "stretched":
            matrix[0, 0] *= 2
        elif change == "turned":
            matrix[0, 1] = 5
        elif change == "differs":
            matrix[2, 3] += 1
        elif change == "negative":
            matrix = -matrix
        arrays["scale_mat_2"] = matrix
        if change == "absent":
            for i in range(5):
                del arrays[f"scale_mat_{i}"]

    change_cameras(folders, spoil)
    says = "holds no world_mat" if change == "absent" else "view 2: scale_mat_2 must be"
    assert_refused(capsys, folders, "supernormal", SET, "cameras_sphere.npz: ", says)


def test_cameras_swapped_with_each_other(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    """Proper cameras, but of other views: the object is not where the masks say."""

    def exchange(arrays: Any) -> None:
        arrays["world_mat_0"], arrays["world_mat_2"] = arrays["world_mat_2"], arrays["world_mat_0"]

    change_cameras(folders, exchange)
    shutil.rmtree(folders / "supernormal" / "normal_camera_space_GT")
    assert_refused(capsys, folders, "supernormal", SET, "02.exr: view 02", "mesh", "swapped?")


def test_object_outside_the_unit_sphere(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    def shrink(arrays: Any) -> None:
        for i in range(5):
            arrays[f"scale_mat_{i}"] = arrays[f"scale_mat_{i}"] @ np.diag([0.1, 0.1, 0.1, 1])

    change_cameras(folders, shrink)
    expected = ("view 00", "of the mask's rays miss the unit sphere")
    assert_refused(capsys, folders, "supernormal", SET, *expected)


def test_improper_rotations_of_other_layouts(
    capsys: pytest.CaptureFixture[str], folders: Any
) -> None:
    path = folders / "diligent_mv" / "Calib_Results.mat"
    content = {k: v for k, v in loadmat(path).items() if k[0] != "_"}
    savemat(path, content | {"Rc_4": content["Rc_4"] @ np.diag([1, 1, -1])})
    expected = "Calib_Results.mat: view 4: the pose is not a proper rotation"
    assert_refused(capsys, folders, "diligent_mv", "Normal_gt", expected)
    del content["Tc_3"]
    savemat(path, content)
    assert_refused(capsys, folders, "diligent_mv", "Normal_gt", "view 3", "Tc_3 (3) expected")
    del content["KK"]
    savemat(path, content)
    assert_refused(capsys, folders, "diligent_mv", "Normal_gt", "KK (3 x 3) expected")

    poses = folders / "custom" / "poses.json"
    values = json.loads(poses.read_text())
    values["camera_to_world"]["shot2"][0][0] *= 1.1
    poses.write_text(json.dumps(values))
    assert_refused(capsys, folders, "custom", "ps", "poses.json: view shot2", "proper rotation")
    del values["camera_to_world"]["shot2"]
    poses.write_text(json.dumps(values))
    assert_refused(capsys, folders, "custom", "ps", "poses.json: view shot2: no pose")


def test_poses_in_another_convention(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    """World-to-camera, or with OpenGL axes (y up, z backwards)."""
    path = folders / "custom" / "poses.json"
    poses = {k: np.array(m) for k, m in json.loads(path.read_text())["camera_to_world"].items()}
    inverted = {view: np.linalg.inv(c2w).tolist() for view, c2w in poses.items()}
    opengl = {view: (c2w @ np.diag([1, -1, -1, 1])).tolist() for view, c2w in poses.items()}
    expected = ("poses.json: view shot", "camera-to-world poses with OpenCV axes")
    for matrices in (inverted, opengl):
        path.write_text(json.dumps({"camera_to_world": matrices}))
        assert_refused(capsys, folders, "custom", "ps", *expected)
    spheres().mesh.export(folders / "custom" / "mesh_Gt.ply")
    expected = ("view shot0: its pose puts the object around or behind the camera", "OpenCV axes")
    assert_refused(capsys, folders, "custom", "ps", *expected)
    path.write_text(json.dumps({"camera_to_world": inverted}))
    assert_refused(capsys, folders, "custom", "ps", "view shot0", "miss the unit sphere")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda K: K * [[0], [1], [1]], "positive focal lengths"),
        (lambda K: K * [[1], [-1], [1]], "positive focal lengths"),
        (lambda K: K * np.nan, "finite"),
        (lambda K: K.T, "upper triangular"),
        (lambda K: K * [[10], [10], [1]], "far outside the 56 x 48 image"),
        (lambda K: K + np.diag([50.0, 0], k=1), "skew"),
        (lambda K: K[:2], "3 rows of 3 numbers"),
    ],
)
def test_intrinsics_that_are_none(
    capsys: pytest.CaptureFixture[str], folders: Any, change: Any, says: Any
) -> None:
    np.savetxt(folders / "custom" / "K.txt", change(spheres().K))
    assert_refused(capsys, folders, "custom", "ps", "custom/K.txt: ", says)


def test_intrinsics_of_one_view_unlike_the_others(
    capsys: pytest.CaptureFixture[str], folders: Any
) -> None:
    (folders / "custom" / "K.txt").unlink()
    assert_refused(capsys, folders, "custom", "ps", "custom: holds neither K.txt nor K/<view>.txt")
    (folders / "custom" / "K").mkdir()
    for i in range(5):
        stretched = spheres().K * [[1.2 if i == 3 else 1.0], [1], [1]]
        np.savetxt(folders / "custom" / "K" / f"shot{i}.txt", stretched)
    assert_refused(capsys, folders, "custom", "ps", "K/shot3.txt: view shot3: fx / fy is")
    (folders / "custom" / "K" / "shot3.txt").write_text("focal length 20 mm")
    assert_refused(capsys, folders, "custom", "ps", "shot3.txt: must hold 3 rows of 3 numbers")


def test_no_cameras_at_all(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    (folders / "supernormal" / "cameras_sphere.npz").unlink()
    (folders / "supernormal" / "K.txt").unlink()
    assert_refused(capsys, folders, "supernormal", SET, "neither cameras_sphere.npz nor K.txt")


def test_eight_bit_normals(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    shutil.rmtree(folders / "custom" / "ps")
    (folders / "custom" / "ps").mkdir()
    for i in range(5):
        cv2.imwrite(
            str(folders / "custom" / "ps" / f"shot{i}.png"), np.zeros((48, 56, 3), np.uint8)
        )
    assert_refused(capsys, folders, "custom", "ps", "shot0.png: is an 8-bit PNG", "16 bits")


def test_ray_distances_with_gaps(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    path = folders / "supernormal" / "integration" / "perspective" / "03.npy"
    distances = np.load(path)
    distances[tuple(np.argwhere(spheres().masks[3])[5])] = np.nan
    np.save(path, distances)
    expected = ("03.npy: view 03: 1 mask pixels have no positive finite ray distance",)
    assert_refused(capsys, folders, "supernormal", SET, *expected)


def test_unknown_layout_and_bad_settings(capsys: pytest.CaptureFixture[str], folders: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        prepare(folders, "colmap", SET)
    assert stopped.value.code == 2
    assert "colmap" in capsys.readouterr().err
    assert prepare(folders, "supernormal", SET, "--settings", '{"upsample": 2}') == 2
    assert "unknown key 'upsample'" in capsys.readouterr().err
    assert prepare(folders, "supernormal", SET, "--settings", '{"upsample_factor": 0.01}') == 2
    assert "nothing is left of its mask at 0.01 times" in capsys.readouterr().err


def test_contour_correlation_of_a_disc_by_hand() -> None:
    """Normals that point straight out of a disc's edge: the identity; turned by 90 degrees: not."""
    yy, xx = np.mgrid[-20:21, -20:21].astype(float)
    mask = np.hypot(yy, xx) < 15
    outward = np.stack([xx, yy, np.zeros_like(xx)], -1)

    def correlation(vectors: Any) -> Any:
        unit = normalised(vectors, mask)
        return contour_correlation(Capture(unit[None], mask[None], np.eye(3)[None], ("0",), "disc"))

    assert np.abs(correlation(outward) - np.eye(2)).max() < 0.02
    turned = np.stack([-yy, xx, np.zeros_like(xx)], -1)
    assert np.abs(correlation(turned) - [[0, 1], [-1, 0]]).max() < 0.02


def test_unit_vectors_by_hand() -> None:
    normals = np.array([[[0, 3.0, 4.0], [0, 0, 0], [1, 0, 0]]])
    mask = np.array([[True, True, False]])
    assert normalised(normals, mask).tolist() == [[[0, pytest.approx(0.6), pytest.approx(0.8)],
                                                   [0, 0, 0], [0, 0, 0]]]  # fmt: skip
