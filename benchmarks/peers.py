"""What people use today to enlarge a video, each as they write it. One run of one of them:

    python benchmarks/peers.py NAME IN OUT [--peers GRAPHS]

prints a line of JSON: frames, loop_s (opening the clip to closing the output, without imports and
model loading), peak_rss_mb; or {"absent": why} when what it needs is not installed.
All enlarge twice. No edgesr code runs in them, except that the torch loop builds the network.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).resolve().parent.parent / "edgesr" / "weights"
NETWORK = "ecbsr-m4c16-x2"
SCALE = 2
CRF, PRESET = "20", "veryfast"
DNN_SUPERRES = {  # name -> file of OpenCV's graph without its scale, what dnn_superres calls it
    "dnn-espcn": ("ESPCN", "espcn"),
    "dnn-fsrcnn": ("FSRCNN", "fsrcnn"),
    "dnn-fsrcnn-small": ("FSRCNNs", "fsrcnn"),
}


class Absent(Exception):
    """What this peer needs is not here; the message says what."""


def lanczos(source: Path, target: Path) -> dict[str, Any]:
    """FFmpeg: decode, scale=flags=lanczos, x264, the sound copied."""
    import av
    from av.filter import Graph

    started = time.perf_counter()
    frames = 0
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        video = reader.streams.video[0]
        video.thread_type = "AUTO"
        encoder = writer.add_stream(
            "libx264", rate=video.average_rate, options={"crf": CRF, "preset": PRESET}
        )
        encoder.width, encoder.height = video.width * SCALE, video.height * SCALE
        encoder.pix_fmt, encoder.time_base = "yuv420p", video.time_base
        context = encoder.codec_context
        context.thread_type, context.thread_count = "AUTO", 0
        graph = Graph()
        graph.threads = 0  # swscale works on slices of a frame, on all cores
        size = f"{encoder.width}:{encoder.height}:flags=lanczos"
        graph.link_nodes(
            graph.add_buffer(template=video), graph.add("scale", size), graph.add("buffersink")
        ).configure()
        copies = {
            sound.index: writer.add_stream_from_template(sound) for sound in reader.streams.audio
        }
        for packet in reader.demux(video, *reader.streams.audio):
            if packet.stream.index in copies:
                if packet.dts is not None:
                    packet.stream = copies[packet.stream.index]
                    writer.mux(packet)
                continue
            for frame in packet.decode():
                graph.vpush(frame)
                writer.mux(encoder.encode(graph.vpull()))
                frames += 1
        writer.mux(encoder.encode())
    return {"frames": frames, "loop_s": time.perf_counter() - started}


def bicubic_loop(source: Path, target: Path) -> dict[str, Any]:
    import cv2

    def enlarge(frame: Any) -> Any:
        return cv2.resize(frame, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)

    return opencv_loop(source, target, enlarge)


def dnn_superres(name: str, source: Path, target: Path, graphs: Path | None) -> dict[str, Any]:
    """OpenCV's own super-resolution: cv2.dnn_superres with the graphs that its page names."""
    network = superres()
    network.readModel(str(graph_file(name, graphs, scale=SCALE)))
    network.setModel(DNN_SUPERRES[name][1], SCALE)
    return opencv_loop(source, target, network.upsample)


def superres() -> Any:
    import cv2

    if not hasattr(cv2, "dnn_superres"):
        raise Absent("this OpenCV has no dnn_superres: pip install opencv-contrib-python-headless")
    return cv2.dnn_superres.DnnSuperResImpl_create()


def graph_file(name: str, graphs: Path | None, *, scale: int) -> Path:
    file = f"{DNN_SUPERRES[name][0]}_x{scale}.pb"
    if graphs is None or not (graphs / file).is_file():
        raise Absent(f"no {file}: give the folder that holds it with --peers")
    return graphs / file


def dnn_graph(name: str, graphs: Path | None, *, scale: int) -> Any:
    """The network of a graph alone, luma in and luma out."""
    import cv2

    superres()  # teaches cv2.dnn the DepthToSpace of these graphs, which it cannot read otherwise
    return cv2.dnn.readNetFromTensorflow(str(graph_file(name, graphs, scale=scale)))


def onnxruntime_loop(source: Path, target: Path) -> dict[str, Any]:
    try:
        import onnxruntime
    except ImportError:
        raise Absent("onnxruntime is not installed: pip install onnxruntime") from None
    session = onnxruntime.InferenceSession(
        str(WEIGHTS / f"{NETWORK}.onnx"), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return opencv_loop(source, target, on_luma(lambda y: session.run(None, {name: y})[0]))


def torch_loop(source: Path, target: Path) -> dict[str, Any]:
    try:
        import torch

        from edgesr.networks import checkpoint, deployed
    except ImportError as error:
        raise Absent(f"{error.name} is not installed: pip install torch safetensors") from None
    model = deployed(checkpoint.load(WEIGHTS / f"{NETWORK}.safetensors")[0])

    def network(luma: Any) -> Any:
        with torch.no_grad():
            return model(torch.from_numpy(luma)).numpy()

    return opencv_loop(source, target, on_luma(network))


def on_luma(network: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """BGR -> enlarged BGR: `network` makes the luma, bicubic the colour."""
    import cv2
    import numpy as np

    def enlarge(frame: Any) -> Any:
        y, cr, cb = cv2.split(cv2.cvtColor(frame, cv2.COLOR_BGR2YCrCb))
        small = y.astype(np.float32)[None, None] / 255.0
        big = np.clip(network(small)[0, 0] * 255.0, 0, 255).round().astype(np.uint8)
        size = big.shape[::-1]
        cr = cv2.resize(cr, size, interpolation=cv2.INTER_CUBIC)
        cb = cv2.resize(cb, size, interpolation=cv2.INTER_CUBIC)
        return cv2.cvtColor(cv2.merge([big, cr, cb]), cv2.COLOR_YCrCb2BGR)

    return enlarge


def opencv_loop(source: Path, target: Path, enlarge: Callable[[Any], Any]) -> dict[str, Any]:
    """Read, enlarge, write, one after the other. OpenCV's wheels write no h264, so mp4v."""
    import cv2

    started = time.perf_counter()
    reader = cv2.VideoCapture(str(source))
    width = int(reader.get(cv2.CAP_PROP_FRAME_WIDTH))
    height = int(reader.get(cv2.CAP_PROP_FRAME_HEIGHT))
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    size = (width * SCALE, height * SCALE)
    writer = cv2.VideoWriter(str(target), fourcc, reader.get(cv2.CAP_PROP_FPS), size)
    frames = 0
    while True:
        there, frame = reader.read()
        if not there:
            break
        writer.write(enlarge(frame))
        frames += 1
    writer.release()
    reader.release()
    return {"frames": frames, "loop_s": time.perf_counter() - started}


def peak_rss_mb() -> float | None:
    # Not getrusage: its figure of a child starts with the size of the process that started it.
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None


LOOPS = {
    "lanczos": lanczos,
    "bicubic-loop": bicubic_loop,
    "onnxruntime-loop": onnxruntime_loop,
    "torch-loop": torch_loop,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=[*LOOPS, *DNN_SUPERRES])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--peers", type=Path)
    options = parser.parse_args()
    try:
        if options.name in LOOPS:
            facts = LOOPS[options.name](options.source, options.target)
        else:
            facts = dnn_superres(options.name, options.source, options.target, options.peers)
        print(json.dumps({**facts, "peak_rss_mb": peak_rss_mb()}))
    except Absent as absent:
        print(json.dumps({"absent": str(absent)}))


if __name__ == "__main__":
    main()
