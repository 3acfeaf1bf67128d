from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_models
import pytest

from edgesr.errors import MediaError, UsageError
from edgesr.runtime.image import ImageReport, upscale_images
from edgesr.runtime.picture import Picture, read, write
from edgesr.runtime.upscaler import load

LOSSLESS = [".png", ".tif", ".tiff", ".bmp"]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_models.nearest(tmp_path_factory.mktemp("net") / "nearest.onnx")


def upscale(net: Path, source: Path, target: Path, **options: Any) -> tuple[ImageReport, list[str]]:
    warnings: list[str] = []
    report = upscale_images(
        source,
        target,
        load=lambda: load(str(net), backend="ort"),
        on_warning=warnings.append,
        **options,
    )
    return report, warnings


def noise(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(3).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def flat(*, shape: tuple[int, ...] = (6, 9, 3)) -> np.ndarray:
    return np.full(shape, (30, 160, 220)[: shape[2]], np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    """By OpenCV: BGR or BGRA or gray."""
    assert cv2.imwrite(str(path), pixels)
    return path


def open_bgr(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def exif(orientation: int, order: str = "<") -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(order + "IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_gray_goes_through_the_model_and_stays_gray(tmp_path: Path, net: Path, suffix: str) -> None:
    pixels = noise(7, 11)
    source = save(tmp_path / f"a{suffix}", pixels)
    report, warnings = upscale(net, source, tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(
        open_bgr(tmp_path / f"b{suffix}"), pixels.repeat(2, 0).repeat(2, 1)
    )
    assert (report.done[0].width, report.done[0].height, warnings) == (22, 14, [])


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".jpg", ".jpeg", ".webp", ".PNG"])
def test_colours_are_not_swapped(tmp_path: Path, net: Path, suffix: str) -> None:
    source = save(tmp_path / f"a{suffix}", flat())
    upscale(net, source, tmp_path / f"b{suffix}")
    big = open_bgr(tmp_path / f"b{suffix}")
    assert big.shape == (12, 18, 3)
    assert np.abs(big.astype(int) - flat()[0, 0]).max() <= 3


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_stays(tmp_path: Path, net: Path, suffix: str, channels: int) -> None:
    pixels = np.full((6, 8, channels), [1001, 33333, 54321, 20002][:channels], np.uint16)
    source = save(tmp_path / f"a{suffix}", pixels)
    upscale(net, source, tmp_path / f"b{suffix}")
    big = open_bgr(tmp_path / f"b{suffix}")
    assert big.dtype == np.uint16
    assert big.shape[:2] == (12, 16)
    assert np.abs(big.reshape(12, 16, channels).astype(int) - pixels[0, 0]).max() <= 2


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_alpha_stays_beside(tmp_path: Path, net: Path, suffix: str) -> None:
    pixels = np.dstack([flat(shape=(8, 8, 3)), np.full((8, 8), 90, np.uint8)])
    pixels[:, 4:, 3] = 200
    source = save(tmp_path / f"a{suffix}", pixels)
    upscale(net, source, tmp_path / f"b{suffix}")
    big = open_bgr(tmp_path / f"b{suffix}")
    assert big.shape == (16, 16, 4)
    assert (big[:, :4, 3] == 90).all()
    assert (big[:, 12:, 3] == 200).all()
    assert np.abs(big[..., :3].astype(int) - pixels[0, 0, :3]).max() <= 4


def test_what_a_format_cannot_hold_is_said(tmp_path: Path, net: Path) -> None:
    deep = save(tmp_path / "deep.png", np.full((4, 4, 4), 40000, np.uint16))
    report, warnings = upscale(net, deep, tmp_path / "b.jpg")
    assert open_bgr(tmp_path / "b.jpg").dtype == np.uint8
    assert np.abs(open_bgr(tmp_path / "b.jpg").astype(int) - 40000 // 257).max() <= 2
    assert ["16 bits become 8" in warnings[0], "alpha is lost" in warnings[1]] == [True, True]
    assert not report.failed


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_what_opencv_shows(
    tmp_path: Path, suffix: str, orientation: int, order: str
) -> None:
    """Held against OpenCV's own reader, which turns only what it reads without alpha."""
    pixels = cv2.resize(noise(3, 5, 3), (50, 30), interpolation=cv2.INTER_NEAREST)
    blob = np.frombuffer(exif(orientation, order), np.uint8)
    _, data = cv2.imencodeWithMetadata(suffix, pixels, [cv2.IMAGE_METADATA_EXIF], [blob])
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data.tobytes())
    picture, _ = read(path)
    shown = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(picture.pixels, shown)
    assert picture.exif == exif(1, order)


def test_orientation_is_applied_once_and_turns_alpha(tmp_path: Path, net: Path) -> None:
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:, :3] = (255, 255, 255, 255)
    blob = np.frombuffer(exif(6), np.uint8)
    _, data = cv2.imencodeWithMetadata(".png", pixels, [cv2.IMAGE_METADATA_EXIF], [blob])
    (tmp_path / "a.png").write_bytes(data.tobytes())
    upscale(net, tmp_path / "a.png", tmp_path / "b.png")
    big, kinds, blobs = cv2.imdecodeWithMetadata(
        np.frombuffer((tmp_path / "b.png").read_bytes(), np.uint8), flags=cv2.IMREAD_UNCHANGED
    )
    assert big.shape == (12, 8, 4)
    assert (big[:4] == 255).all()
    assert not big[8:].any()
    assert list(kinds) == [cv2.IMAGE_METADATA_EXIF]
    assert np.asarray(blobs[0]).tobytes() == exif(1)


@pytest.mark.parametrize("content", [b"", b"II", b"II*\0\xff\xff\xff\xff", exif(6)[:14], b"x" * 40])
def test_damaged_exif_is_no_orientation(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jpg"
    kinds = [cv2.IMAGE_METADATA_EXIF] if content else []
    blobs = [np.frombuffer(content, np.uint8)] if content else []
    _, data = cv2.imencodeWithMetadata(".jpg", flat(), kinds, blobs)
    path.write_bytes(data.tobytes())
    assert read(path)[0].pixels.shape == (6, 9, 3)


def test_icc_profile_is_carried_or_said(tmp_path: Path) -> None:
    profile = b"a profile"
    picture = Picture(pixels=flat(), icc=profile)
    nowhere = tmp_path / "none"
    for name in ("a.jpg", "a.webp"):
        assert write(picture, tmp_path / name, source=nowhere, overwrite=False) == []
        assert read(tmp_path / name)[0].icc == profile
    for name in ("a.tif", "a.bmp"):
        lost = write(picture, tmp_path / name, source=nowhere, overwrite=False)
        assert "ICC profile not carried" in lost[0]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp"])
def test_files_cut_off_are_not_half_read(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", noise(64, 64, 3))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(MediaError, match="damaged"):
        read(path)


def test_only_the_first_of_several_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    assert cv2.imwritemulti(str(path), [flat(), flat(), flat()])
    assert "only the first of 3" in read(path)[1][0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"", "is empty"),
        ("a.png", b"no picture", "not a picture"),
        ("a.jpg", b"\xff\xd8\xff", "not a picture"),
    ],
)
def test_unreadable(tmp_path: Path, net: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=message):
        upscale(net, tmp_path / name, tmp_path / "b.png")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_float_pictures_are_refused(tmp_path: Path, net: Path) -> None:
    source = save(tmp_path / "a.tiff", np.zeros((4, 4, 3), np.float32))
    with pytest.raises(MediaError, match="float32 samples"):
        upscale(net, source, tmp_path / "b.png")


def test_a_picture_too_large_for_its_format(tmp_path: Path, net: Path) -> None:
    source = save(tmp_path / "a.png", np.zeros((2, 9000), np.uint8))
    with pytest.raises(MediaError, match=r"b\.webp"):
        upscale(net, source, tmp_path / "b.webp")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_refusals_before_the_model_is_opened(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", flat())
    existing = save(tmp_path / "b.png", flat())
    (tmp_path / "link.png").symlink_to(source)
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder").mkdir()
    save(tmp_path / "folder" / "a.png", flat())

    def never() -> Any:
        raise AssertionError("the model was opened")

    for given, target, error, message in [
        (source, source, UsageError, "is the input itself"),
        (source, tmp_path / "link.png", UsageError, "is the input itself"),
        (source, existing, UsageError, "exists; pass --overwrite"),
        (source, tmp_path / "folder", UsageError, "is a folder"),
        (source, tmp_path / "b.gif", UsageError, r"written as \.png"),
        (source, tmp_path / "none" / "b.png", MediaError, "there is no folder"),
        (tmp_path / "none.png", tmp_path / "c.png", MediaError, "no such file"),
        (tmp_path / "empty", tmp_path / "out", UsageError, "no pictures in"),
        (tmp_path / "folder", tmp_path / "folder", UsageError, "is the input folder"),
        (tmp_path / "folder", tmp_path, UsageError, r"a\.png exists"),
        (tmp_path / "folder", existing, UsageError, "must be one too"),
    ]:
        with pytest.raises(error, match=message):
            upscale_images(given, target, load=never)


def test_overwrite(tmp_path: Path, net: Path) -> None:
    source = save(tmp_path / "a.png", flat())
    target = save(tmp_path / "b.png", flat())
    upscale(net, source, target, overwrite=True)
    assert open_bgr(target).shape == (12, 18, 3)


def test_folder(tmp_path: Path, net: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "c.jpg", "d.ppm"):
        save(folder / name, flat())
    (folder / "b.png").write_bytes(b"damaged")
    (folder / "notes.txt").touch()
    (folder / "sub").mkdir()
    (folder / ".hidden.png").touch()
    seen: list[str] = []
    report, warnings = upscale(
        net, folder, tmp_path / "new" / "out", on_done=lambda done: seen.append(done.output.name)
    )
    assert seen == ["a.png", "c.jpg", "d.png"]
    assert sorted(p.name for p in (tmp_path / "new" / "out").iterdir()) == seen
    assert [(path.name, "not a picture" in why) for path, why in report.failed] == [("b.png", True)]
    assert warnings == [f"{folder}: 2 other files or folders are left out"]
    assert report.to_dict()["failed"][0]["input"] == str(folder / "b.png")


def test_two_pictures_for_one_name(tmp_path: Path, net: Path) -> None:
    save(tmp_path / "a.png", flat())
    save(tmp_path / "a.ppm", flat())
    with pytest.raises(UsageError, match="would both become"):
        upscale(net, tmp_path, tmp_path / "out")
