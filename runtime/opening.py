"""Open a file for reading: what is no video is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av

from edgesr.errors import MediaError
from edgesr.runtime.streams import ATTACHED_PICTURE

_TEXT_ART = {"tty", "bin", "xbin", "adf", "idf"}  # FFmpeg draws text files as video


def open_input(path: Path) -> Any:
    if path.is_dir():
        raise MediaError(f"{path} is a folder, not a video file")
    if not path.exists():
        raise MediaError(f"{path}: no such file")
    if path.is_file() and path.stat().st_size == 0:
        raise MediaError(f"{path} is empty")
    try:
        container = av.open(str(path), "r", metadata_errors="surrogateescape")
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path} cannot be read: {_reason(error)}") from error
    kind = container.format.name
    if kind in _TEXT_ART:
        container.close()
        raise MediaError(f"{path} is not a video")
    if kind.endswith("_pipe") or kind == "image2":
        container.close()
        raise MediaError(f"{path} is a picture, not a video; type: edgesr image {path} OUT")
    return container


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.InvalidDataError):
        return "it is not a video, or it is damaged beyond reading (an .mp4 without its index)"
    return str(getattr(error, "strerror", None) or error)


def video_stream(container: Any, path: Path) -> Any:
    """The default video stream, else the first; never a cover picture."""
    videos = [s for s in container.streams.video if not int(s.disposition) & ATTACHED_PICTURE]
    if not videos:
        container.close()
        raise MediaError(f"{path} has no video stream")
    usable = [s for s in videos if s.codec_context is not None]
    if not usable:
        container.close()
        raise MediaError(f"{path}: this FFmpeg has no decoder for its video")
    return next((s for s in usable if int(s.disposition) & 1), usable[0])
