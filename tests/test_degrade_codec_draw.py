"""Which compression is drawn, pans of photos, and the compressed copies of a training set."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
import pytest
from photos import draw_photo

torch = pytest.importorskip("torch")

from edgesr.distill.codec import degrade_video
from edgesr.distill.codec_draw import (
    CodecSettings,
    CodecShare,
    Encoding,
    Pan,
    degrade_batch,
    degrade_photo,
    draw_encoding,
    draw_pan,
    encode_clip_copies,
    encode_copies,
    pan_clip,
)
from edgesr.errors import UsageError

Array = np.ndarray[Any, Any]


def psnr(a: Array, b: Array) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, ((a.astype(float) - b) ** 2).mean())))


def test_drawn_encodings_are_spread_as_the_settings_say() -> None:
    settings, rng = CodecSettings(), np.random.default_rng(2)
    draws = [draw_encoding(settings, rng) for _ in range(6000)]
    for row in settings.shares:
        own = [d for d in draws if d.codec == row.codec and getattr(d, row.by) is not None]
        p = row.share / sum(r.share for r in settings.shares)
        assert abs(len(own) / 6000 - p) < 4 * np.sqrt(p * (1 - p) / 6000)
        counts = np.bincount([getattr(d, row.by) - row.level[0] for d in own])
        bins = row.level[1] - row.level[0] + 1
        assert len(counts) == bins
        chi = ((counts - len(own) / bins) ** 2 / (len(own) / bins)).sum()
        assert chi < bins - 1 + 4 * np.sqrt(2 * (bins - 1))
        for preset in row.presets:
            share = np.mean([d.preset == preset for d in own])
            k = len(row.presets)
            assert abs(share - 1 / k) <= 4 * np.sqrt((k - 1) / k**2 / len(own))
    mostly = [d.crf for d in draws if d.codec == "libx264" and d.crf is not None]
    assert (min(mostly), max(mostly)) == (18, 35)
    assert len(mostly) > 3000


def test_drawn_pans() -> None:
    settings, rng = CodecSettings(), np.random.default_rng(3)
    pans = [draw_pan(settings, rng) for _ in range(3000)]
    assert {p.frames for p in pans} == {3, 4, 5, 6, 7, 8}
    assert all(0 <= p.take < p.frames for p in pans)
    assert {p.take for p in pans} == set(range(8))
    speeds = np.array([np.hypot(*p.velocity) for p in pans])
    counts = np.histogram(speeds, bins=10, range=(0, 2))[0]
    assert ((counts - 300) ** 2 / 300).sum() < 28
    assert abs(np.mean([p.velocity[0] > 0 for p in pans]) - 0.5) < 4 * 0.5 / np.sqrt(3000)


@pytest.mark.parametrize("colour", [True, False])
def test_a_pan_moves_the_photo_and_keeps_the_one_taken(colour: bool) -> None:
    photo = draw_photo(4, height=40, width=60)
    photo = photo if colour else photo[:, :, 0].copy()
    moved = pan_clip(photo, Pan(frames=4, take=1, velocity=(3.0, -2.0)))
    assert moved.shape == (4, *photo.shape)
    assert np.array_equal(moved[1], photo)
    assert np.array_equal(moved[2][:-2, 3:], photo[2:, :-3])  # right and up
    assert np.array_equal(moved[0][2:, :-3], photo[:-2, 3:])


def test_a_photo_comes_back_where_it_was() -> None:
    photo = cv2.GaussianBlur(draw_photo(2, height=48, width=64)[:, :, 0], (0, 0), 1)
    for take in range(4):
        pan = Pan(frames=4, take=take, velocity=(1.5, 0.5))
        got = degrade_photo(photo, Encoding(codec="libx264", crf=22), pan)
        assert psnr(got, photo) > 32
        assert psnr(got[:, 2:], photo[:, :-2]) < 28


FEW = CodecSettings(
    shares=(
        CodecShare(codec="libx264", share=3, presets=("ultrafast",)),
        CodecShare(codec="mpeg2video", share=1, by="qp", level=(2, 10)),
    ),
    frames=(3, 4),
)


def test_copies_of_photos() -> None:
    photos = [draw_photo(s, height=33, width=49) for s in range(5)]
    photos[3] = draw_photo(3, height=20, width=70)[:, :, 1].copy()  # luma among colour
    asked: list[int] = []

    def source() -> Any:
        for index, photo in enumerate(photos):
            asked.append(index)
            yield photo

    alone = list(encode_copies(source(), copies=3, settings=FEW, seed=7))
    assert len(alone) == 5
    for (copies, encodings), photo in zip(alone, photos, strict=True):
        assert copies.shape == (3, *photo.shape)
        assert len(encodings) == 3
        assert all(psnr(copy, photo) > 18 for copy in copies)
    assert len({e for _, encodings in alone for e in encodings}) > 5  # drawn afresh
    several = list(encode_copies(source(), copies=3, settings=FEW, seed=7, workers=3))
    for (a, how), (b, same) in zip(alone, several, strict=True):
        assert np.array_equal(a, b)
        assert how == same
    other = next(encode_copies(photos, copies=3, settings=FEW, seed=8))
    assert not np.array_equal(other[0], alone[0][0])
    asked.clear()
    endless = encode_copies(source(), copies=1, settings=FEW, seed=7)
    next(endless)
    assert asked == [0, 1, 2]  # no further ahead
    endless.close()
    with pytest.raises(UsageError, match="give 1 or more of both"):
        next(encode_copies(photos, copies=0, seed=1))


def test_an_error_in_a_copy_arrives() -> None:
    good, bad = draw_photo(0), np.zeros((4, 4, 2), np.uint8)
    coded = encode_copies([good, bad, good], copies=1, settings=FEW, seed=1, workers=2)
    with pytest.raises(UsageError, match="RGB or"):
        list(coded)


def test_copies_of_footage() -> None:
    photo = draw_photo(0, height=64, width=90)[:, :, 1]
    frames = np.stack([photo[:, t : t + 80] for t in range(6)])
    made = list(encode_clip_copies(frames, copies=3, settings=FEW, seed=1))
    for coded, encoding in made:
        assert coded.shape == frames.shape
        assert np.array_equal(coded, degrade_video(frames, **asdict(encoding)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_of_crops(channels: int) -> None:
    photo = cv2.GaussianBlur(draw_photo(1, height=48, width=96), (0, 0), 1)
    pair = torch.from_numpy(np.stack([photo[:, :48], photo[:, 48:]]).transpose(0, 3, 1, 2) / 255.0)
    batch = pair[:, :channels].float()
    got, encodings = degrade_batch(batch, settings=FEW, rng=np.random.default_rng(4))
    again, _ = degrade_batch(batch, settings=FEW, rng=np.random.default_rng(4))
    assert torch.equal(got, again)
    assert got.shape == batch.shape
    assert got.dtype == torch.float32
    assert len(encodings) == 2
    assert float((got * 255 - (got * 255).round()).abs().max()) < 1e-4
    assert psnr(got.numpy() * 255, batch.numpy() * 255) > 22
    assert not torch.equal(got, batch)
    with pytest.raises(UsageError, match=r"give \(N, 1 or 3, H, W\)"):
        degrade_batch(batch[0], rng=np.random.default_rng(0))


def test_settings_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="shares are all 0"):
        CodecSettings(shares=(CodecShare(codec="libx264", share=0),))
    with pytest.raises(UsageError, match="level is"):
        CodecSettings(shares=(CodecShare(codec="libx264", share=1, level=(30, 20)),))
    with pytest.raises(UsageError, match="crf 60"):
        CodecSettings(shares=(CodecShare(codec="libx264", share=1, level=(30, 60)),))
    with pytest.raises(UsageError, match="preset"):
        CodecSettings(shares=(CodecShare(codec="libx264", share=1, presets=("8",)),))
    with pytest.raises(UsageError, match="fewest, most"):
        CodecSettings(frames=(0, 4))
