"""Write the tables of README.md from the committed results, between its markers.

    python benchmarks/readme.py

No figure in README is typed by hand.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

from edgesr.card_text import OPTIMIZERS
from edgesr.zoo import NetworkFacts, networks

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

LABELS = {
    "lanczos": "FFmpeg lanczos (no network)",
    "dnn-espcn": "OpenCV dnn_superres ESPCN",
    "dnn-fsrcnn": "OpenCV dnn_superres FSRCNN",
    "dnn-fsrcnn-small": "OpenCV dnn_superres FSRCNN-small",
    "onnxruntime-loop": "cv2 + onnxruntime loop, ecbsr-m4c16",
    "torch-loop": "cv2 + torch loop, ecbsr-m4c16",
    "bicubic-loop": "cv2.resize bicubic loop",
}
# Which row of quality.json shows the picture that a row of stream.json makes.
PICTURE = {
    "lanczos": ("lanczos", "FFmpeg swscale, uint8 in and out"),
    "onnxruntime-loop": ("ecbsr-m4c16-x2", "ort fp32, uint8 in and out"),
    "torch-loop": ("ecbsr-m4c16-x2", "ort fp32, uint8 in and out"),
    **{name: (name, "cv2.dnn, full-range luma") for name in LABELS if name.startswith("dnn-")},
}


def main() -> None:
    quality = result("quality")
    text = (ROOT / "README.md").read_text()
    text = fill(text, "table", speed_table(result("stream"), quality))
    text = fill(text, "quality", quality_table(quality))
    text = fill(text, "networks", network_list(networks()))
    larger = [result("video-x3"), result("video-x4")]
    text = fill(text, "video", video_table(result("video"), larger))
    for marker in ("distillation", "distillation-x4"):
        text = fill(text, marker, teacher_table(result(marker)))
    text = fill(text, "pisr", pisr_table(result("pisr")))
    text = fill(text, "optimizers", optimizer_table(result("optimizers")))
    text = fill(text, "export", export_table(result("export")))
    (ROOT / "README.md").write_text(text)


def result(name: str) -> dict[str, Any]:
    return dict(json.loads((RESULTS / f"{name}.json").read_text()))


def fill(text: str, marker: str, content: str) -> str:
    pattern = rf"(<!-- {marker}:start -->\n).*?(<!-- {marker}:end -->)"
    filled, count = re.subn(pattern, lambda m: m[1] + content + m[2], text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"README.md has {count} places for {marker!r}, not one")
    return filled


def speed_table(speed: dict[str, Any], quality: dict[str, Any]) -> str:
    """One row a way of enlarging the clip: frames a second of wall time, and dB on Set5."""
    psnr = {
        (row["name"], row["runs"]): row["Set5"]["psnr_y"]
        for row in quality["rows"]
        if row["scale"] == 2 and "Set5" in row
    }
    lines = ["| | fps | peak MB | Set5 x2, dB |", "| --- | ---: | ---: | ---: |"]
    for row in speed["rows"]:
        name = row["name"]
        label = LABELS.get(name, f"**edgesr {name}**")
        if "fps" not in row:
            lines.append(f"| {label} | {row.get('absent', 'broken')} | | |")
            continue
        model, eight = name.removesuffix("-int8"), name.endswith("-int8")
        runs = f"openvino {'int8' if eight else 'bf16'}, uint8 in and out"
        score = psnr.get(PICTURE.get(name, (at_x2(model), runs)))
        fps = row["loop_fps" if row["cut_clip"] else "fps"]["median"]
        decibel = "" if score is None else f"{score:.2f}"
        mark = "¹" if row["cut_clip"] else ""
        lines.append(f"| {label} | {fps:.1f}{mark} | {row['peak_rss_mb']:.0f} | {decibel} |")
    machine, clip = speed["machine"], speed["clip"]
    lines.append("")
    lines.append(
        f"Whole wall time from file to file, start-up included: {clip['frames']} frames of "
        f"{clip['width']}x{clip['height']} H.264 to twice the size, x264 veryfast crf 20 (the "
        "cv2 loops write mp4v without sound, all that OpenCV's wheels can), on "
        f"{machine['cores']} cores of an {machine['cpu']}, medians of interleaved runs; edgesr "
        "on OpenVINO in bf16, or int8 with `--precision int8`. "
        "All rows and ratios: [stream.json](benchmarks/results/stream.json). "
        "dB: PSNR-Y with 8-bit luma in and out, as in a video. "
        "¹ the first frames only, without start-up."
    )
    return "\n".join(lines) + "\n"


def at_x2(family: str) -> str:
    """Full name of a model: "ecbsr-m4c16-video" -> "ecbsr-m4c16-x2-video"."""
    return re.sub(r"(-video)?$", r"-x2\1", family, count=1)


def quality_table(quality: dict[str, Any]) -> str:
    """Set5 and Set14 at all scales: bicubic and every shipped model in ONNX Runtime fp32."""
    rows = [
        row
        for row in quality["rows"]
        if row["name"] in ("bicubic", "lanczos") or row["runs"] == "ort fp32"
    ]
    lines = ["| | x | Set5 | Set14 |", "| --- | ---: | ---: | ---: |"]
    for row in sorted(rows, key=lambda row: row["scale"]):
        cells = [
            f"{row[name]['psnr_y']:.2f} / {row[name]['ssim_y']:.4f}" for name in quality["sets"]
        ]
        name = row["name"].replace(f"-x{row['scale']}", "", 1)
        lines.append(f"| {name} | {row['scale']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def video_table(coded: dict[str, Any], larger: list[dict[str, Any]]) -> str:
    """A row a method: PSNR-Y on compressed clips by the encoder's CRF, then SSIM and flicker.

    larger: the same at other scales, of which one line tells.
    """
    crfs = coded["crfs"]
    lines = [f"| x264 at CRF | {' | '.join(map(str, crfs))} | SSIM | flicker |"]
    lines.append(f"| --- |{' ---: |' * (len(crfs) + 2)}")
    for name in coded["methods"]:
        means = coded["means"][name]
        cells = [f"{means[str(crf)]['psnr_y']:.2f}" for crf in crfs]
        cells += [f"{means['all']['ssim_y']:.4f}", f"{means['all']['flicker']:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append("")
    lines.append(
        f"PSNR-Y, means over {len(coded['clips'])} clips made small, encoded and enlarged again; "
        "flicker in 8-bit codes, less is better "
        "([video.json](benchmarks/results/video.json)). "
        + " ".join(f"{gain_over_lanczos(other)}." for other in larger)
    )
    return "\n".join(lines) + "\n"


def gain_over_lanczos(coded: dict[str, Any]) -> str:
    scale, file = coded["scale"], f"{coded['benchmark']}.json"
    means, best = coded["means"], f"ecbsr-m10c16-x{scale}-video"
    all_of_them, worst = (
        means[best][crf]["psnr_y"] - means["lanczos"][crf]["psnr_y"]
        for crf in ("all", str(max(coded["crfs"])))
    )
    return (
        f"At x{scale} ecbsr-m10c16-video is {all_of_them:.2f} dB above lanczos, {worst:.2f} at CRF "
        f"{max(coded['crfs'])} ([{file}](benchmarks/results/{file}))"
    )


def teacher_table(taught: dict[str, Any]) -> str:
    """A row for each student: PSNR-Y on Set5 alone, and what each teacher added to it."""
    scale = taught["scales"][0]
    heads = [f"{name}, {teacher_note(known, scale)}" for name, known in taught["teachers"].items()]
    columns = ("none", *taught["teachers"])
    rows: dict[str, dict[str, str]] = {}
    for row in taught["rows"]:
        if row["scale"] != scale:
            continue
        of_set = row["sets"]["Set5"]
        cell = f"{of_set['psnr_y']['mean']:.2f}"
        if row["teacher"] != "none":
            cell = f"{of_set['gain']['mean']:+.2f} ± {of_set['gain']['stdev']:.2f}"
        rows.setdefault(row["student"], {})[row["teacher"]] = cell
    return (
        f"In {taught['steps']:,} steps at x{scale}, PSNR-Y on Set5, mean and spread of "
        f"{len(taught['seeds'])} seeds, by {OPTIMIZERS[taught['optimizer']]}\n"
        f"([{taught['benchmark']}.json](benchmarks/results/{taught['benchmark']}.json) "
        "has Set14 too):\n\n"
        + f"| student | alone | {' | '.join(heads)} |\n"
        + f"| --- | ---: |{' ---: |' * len(heads)}\n"
        + "".join(
            f"| {student} | {' | '.join(cells.get(name, '') for name in columns)} |\n"
            for student, cells in rows.items()
        )
    )


def teacher_note(known: dict[str, Any], scale: int) -> str:
    if "psnr_y" not in known:
        return f"which sees {known['sees']}"
    small = "small, " if "config" in known else ""
    return f"{small}{known['psnr_y'][f'x{scale}']['Set5']:.1f} dB"


def pisr_table(taught: dict[str, Any]) -> str:
    """A row for each set and scale: FSRCNN alone and by PISR, ours and the paper's."""
    rows = {(row["scale"], row["teacher"]): row for row in taught["rows"]}
    theirs = {(row["scale"], row["name"]): row for row in taught["published"]["rows"]}
    lines = ["| | alone | PISR | gain | paper: FSRCNN | paper: PISR |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in ("Set5", "Set14"):
        for scale in taught["scales"]:
            plain, pisr = (rows[scale, teacher]["sets"][name] for teacher in ("none", "pisr"))
            gain = pisr["gain"]
            cells = [
                f"{plain['psnr_y']['mean']:.2f}",
                f"{pisr['psnr_y']['mean']:.2f}",
                f"{gain['mean']:+.2f} ± {gain['stdev']:.2f}",
                *(f"{theirs[scale, n][name]['psnr_y']:.2f}" for n in ("FSRCNN", "FSRCNN-PISR")),
            ]
            lines.append(f"| {name} x{scale} | {' | '.join(cells)} |")
    lines.append("")
    lines.append(
        f"PSNR-Y, means of {len(taught['seeds'])} seeds after {taught['steps']:,} steps of "
        f"{OPTIMIZERS[taught['optimizer']]} and, before PISR's, {taught['teacher_steps']:,} of its "
        f"teacher; the paper's student and teacher had {taught['published']['steps']:,} each, of "
        "Adam. Far from converged. The paper's figures are from memory, but for FSRCNN at x4 "
        "([pisr.json](benchmarks/results/pisr.json))."
    )
    return "\n".join(lines) + "\n"


def optimizer_table(learnt: dict[str, Any]) -> str:
    """A row for each student and number of steps: PSNR-Y on Set5 by Adam and by SOAP."""
    rows: dict[tuple[str, int], dict[tuple[str, str], Any]] = {}
    for row in learnt["rows"]:
        of_student = rows.setdefault((row["student"], row["beside"]), {})
        of_student[row["optimizer"], row["equal"]] = row
    lines = [
        "| student | steps | Adam | SOAP | Adam in SOAP's time | SOAP above Adam's end after |"
    ]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for (student, steps), found in rows.items():
        adam, soap = found["adam", "steps"], found["soap", "steps"]
        again = found["adam", "time"]
        first, second, third = (row["sets"]["Set5"]["mean"] for row in (adam, soap, again))
        passes = soap["passes_adam_after"]
        cells = [
            f"{steps:,}",
            f"{first:.2f}",
            f"{second:.2f}",
            f"{third:.2f} ({again['steps']:,} steps)",
            "never" if passes is None else f"{passes:,} steps",
        ]
        lines.append(f"| {student} | {' | '.join(cells)} |")
    seeds = len(learnt["seeds"])
    lines.append("")
    lines.append(
        f"PSNR-Y on Set5 at x2, {seeds} seed{'s' if seeds > 1 else ''}, each optimiser at the best "
        "rate known for it; times on one thread, Set14 and the way there are in "
        "[optimizers.json](benchmarks/results/optimizers.json)."
    )
    return "\n".join(lines) + "\n"


EXPORTED = {
    "ort fp32": "ONNX Runtime fp32",
    "ort int8, ort file": "ONNX Runtime int8",
    "openvino bf16": "OpenVINO bf16",
    "openvino int8, openvino file": "OpenVINO int8",
}


def export_table(exported: dict[str, Any]) -> str:
    """Of every network the forms that are worth having: ms, and dB lost on both sets."""
    machine, (width, height) = exported["machine"], exported["size"].split("x")
    lines = [
        f"On {machine['cores']} cores of an {machine['cpu']}, {width}x{height} to twice the size, "
        "repaired INT8 beside the rest\n([export.json](benchmarks/results/export.json); dB lost on "
        "Set5, which the repair saw, and Set14, which it\ndid not):\n",
        "| | ms, 1 thread | ms, 2 threads | Set5 | Set14 |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    briefly = []
    for network in exported["networks"]:
        rows = {row["name"]: row for row in network["candidates"] if row["error"] is None}
        mark = "" if network["weights"] == "shipped" else "¹"
        if mark:
            briefly.append(f"{network['name']} {network['weights']}")
        for name, label in EXPORTED.items():
            if name not in rows:
                continue
            ms = [f"{rows[name]['ms'][threads]:.0f}" for threads in ("1", "2")]
            lost = [f"{rows[name]['sets'][of]['drop']:.2f}" for of in exported["sets"]]
            lines.append(f"| {network['name']}{mark}, {label} | {' | '.join([*ms, *lost])} |")
    if briefly:
        lines.append(f"\n¹ Not shipped, trained for this table alone: {'; '.join(briefly)}.")
    return "\n".join(lines) + "\n"


def network_list(facts: list[NetworkFacts]) -> str:
    """One paragraph a kind: the networks and their parameters, deployed, at their least scale."""
    kinds = {
        ("picture", "y"): "On luma",
        ("picture", "rgb"): "On RGB",
        ("video", "rgb"): "On clips of RGB",
        ("video", "y"): "On luma, frame by frame with a state",
        ("teacher", "y"): "A teacher that sees the truth",
    }
    lines = []
    for (kind, colour), title in kinds.items():
        first = {f.name: f for f in reversed(facts) if (f.kind, f.colour) == (kind, colour)}
        names = [f"`{f.name}` {rounded(f.deployed)}" for f in reversed(first.values())]
        lines.append(f"{title}: {', '.join(names)}.\n")
    lines.append("Parameters as deployed, at the smallest scale; `edgesr models` tells the rest.\n")
    return "\n".join(textwrap.fill(line, 105) + "\n" for line in lines)


def rounded(count: int) -> str:
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}K"


if __name__ == "__main__":
    main()
