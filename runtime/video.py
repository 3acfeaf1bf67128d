"""Video files in and out: see `reader` and `writer`."""

from edgesr.runtime.reader import Carried, VideoReader
from edgesr.runtime.writer import VideoWriter

__all__ = ["Carried", "VideoReader", "VideoWriter"]
