"""Normal maps and masks on disk: EXR, 16-bit PNG and NumPy files.

Vectors keep the axes of the file; readers convert them. Image libraries are imported on first use,
so that stages without images do not need them.
"""

import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from pmni.errors import InputError

NORMAL_SUFFIXES = (".exr", ".png", ".npy")
"""Suffixes of normal maps, in the order of preference."""
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""First bytes of a PNG file."""


def read_normal_map(path: Path) -> Float[np.ndarray, "H W 3"]:
    """The vectors (H, W, 3), float32, in the axes of the file.

    EXR and NumPy files hold them as they are, 16-bit PNG files as n = rgb / 65535 * 2 - 1.
    Raises InputError for a file that is missing, truncated or of another kind.
    """
    readers = {".exr": _read_exr, ".png": _read_png_vectors, ".npy": _read_npy}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: not a normal map (known: {', '.join(NORMAL_SUFFIXES)})")
    image = reader(_existing(path))
    if image.ndim != 3 or image.shape[2] < 3:
        raise InputError(f"{path}: has shape {image.shape}, not (height, width, 3)")
    return np.ascontiguousarray(image[..., :3], dtype=np.float32)


def write_normal_map(path: Path, normals: Float[np.ndarray, "H W 3"], half: bool = False) -> None:
    """Write vectors as `read_normal_map` reads them, by the suffix of `path`.

    `half` stores an EXR in 16-bit floats (errors up to 5e-4).
    """
    suffix = path.suffix.lower()
    if suffix == ".exr":
        import pyexr

        precision = pyexr.HALF if half else pyexr.FLOAT
        pyexr.write(str(path), np.ascontiguousarray(normals, np.float32), precision=precision)
    elif suffix == ".png":
        rgb = np.rint((np.clip(normals, -1, 1) + 1) / 2 * 65535).astype(np.uint16)
        _write_png(path, rgb[..., ::-1])
    elif suffix == ".npy":
        np.save(path, normals.astype(np.float32))
    else:
        raise InputError(f"{path}: not a normal map (known: {', '.join(NORMAL_SUFFIXES)})")


def read_mask(path: Path) -> Bool[np.ndarray, "H W"]:
    """True on the object: above half of the range, or 1 in an image of zeros and ones."""
    image = _read_png(_existing(path))
    if image.ndim == 3:
        image = image[..., 0]
    top = np.iinfo(image.dtype).max if image.max() > 1 else 1
    return image > top / 2


def write_mask(path: Path, mask: Bool[np.ndarray, "H W"]) -> None:
    """Write a mask as an 8-bit PNG of 0 and 255."""
    _write_png(path, np.where(mask, 255, 0).astype(np.uint8))


def read_distances(path: Path) -> Float[np.ndarray, "H W"]:
    """A NumPy file of one number a pixel, as float32."""
    image = _read_npy(_existing(path))
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim != 2:
        raise InputError(f"{path}: has shape {image.shape}, not (height, width)")
    return image.astype(np.float32)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return path


def _read_exr(path: Path) -> np.ndarray:
    import pyexr

    try:
        with pyexr.open(str(path)) as file:
            groups = sorted(file.root_channels)
            return file.get("default" if "default" in groups else groups[0])
    except Exception:  # the library raises bare types for anything wrong with a file
        raise InputError(f"{path}: not an EXR file, or truncated or damaged") from None


def _read_npy(path: Path) -> np.ndarray:
    try:
        image = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise InputError(f"{path}: not a NumPy array, or truncated") from None
    if not isinstance(image, np.ndarray) or image.dtype.kind != "f":
        raise InputError(f"{path}: must hold an array of floating-point numbers")
    return image


def _read_png_vectors(path: Path) -> np.ndarray:
    image = _read_png(path)
    if image.dtype != np.uint16:
        raise InputError(f"{path}: is an 8-bit PNG; normal maps need 16 bits a channel, or EXR")
    if image.ndim != 3:
        raise InputError(f"{path}: has one channel; a normal map has three")
    return image[..., 2::-1].astype(np.float32) / 65535 * 2 - 1


def _read_png(path: Path) -> np.ndarray:
    """Pixels in OpenCV's channel order (BGR, BGRA or grey)."""
    import cv2

    data = path.read_bytes()
    _check_png_chunks(path, data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise InputError(f"{path}: this PNG cannot be decoded")
    return image


def _check_png_chunks(path: Path, data: bytes) -> None:
    """Decoders return what is left of a damaged file, so its structure is checked first."""
    if not data.startswith(_PNG_SIGNATURE):
        raise InputError(f"{path}: not a PNG file")
    start = len(_PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        length = int.from_bytes(data[start : start + 4], "big")
        kind = data[start + 4 : start + 8]
        content_end = start + 8 + length
        if content_end + 4 > len(data):
            raise InputError(f"{path}: this PNG is truncated")
        checksum = int.from_bytes(data[content_end : content_end + 4], "big")
        if zlib.crc32(data[start + 4 : content_end]) != checksum:
            raise InputError(f"{path}: this PNG is damaged (a checksum does not match)")
        start = content_end + 4


def _write_png(path: Path, image: np.ndarray) -> None:
    import cv2

    encoded = cv2.imencode(".png", np.ascontiguousarray(image))[1]
    path.write_bytes(encoded.tobytes())
