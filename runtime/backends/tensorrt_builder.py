"""Typed ONNX -> TensorRT engine, with the bindings of TensorRT 8.6 to 11 and of TensorRT-RTX.

Precision lives in the graph. Where the bindings have strongly typed networks (10, 11) that is all;
where they have not (8) the flags FP16 and INT8 allow what the graph says. What a version has is
asked of the module, never guessed from its number. `trt` is the module `tensorrt`, or
`tensorrt_rtx_bindings`, or a fake of them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesr.errors import BackendError, UsageError
from edgesr.runtime.backends.engine_options import EngineOptions, sized
from edgesr.runtime.backends.tensorrt_hooks import Progress as Progress
from edgesr.runtime.backends.tensorrt_hooks import logger_of as logger_of
from edgesr.runtime.backends.tensorrt_hooks import make_monitor
from edgesr.spec import ModelSpec

Note = Callable[[str], None]
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Built:
    """A plan, the timings that may be used again, and what the build was like.

    flags  names of the network's and the builder's flags
    """

    plan: bytes
    timings: bytes | None
    seconds: float
    flags: tuple[str, ...]
    warnings: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 3),
            "flags": list(self.flags),
            "warnings": list(self.warnings),
        }


def build_engine(
    onnx: Path,
    *,
    spec: ModelSpec,
    options: EngineOptions,
    trt: Any,
    timings: bytes | None = None,
    on_note: Note | None = None,
    on_progress: Progress | None = None,
) -> Built:
    """Parse and build; takes from a second to many minutes.

    onnx      a typed graph with inputs NCHW, names of state as in `spec`
    timings   what an earlier build gave back; ignored where it does not fit

    Raises BackendError with TensorRT's own reason, UsageError for options that this device has not.
    """
    with warnings.catch_warnings():
        # The bindings warn from within C++, where a warning made an error becomes a SystemError.
        warnings.simplefilter("ignore", DeprecationWarning)
        return _build(
            onnx,
            spec=spec,
            options=options,
            trt=trt,
            timings=timings,
            note=on_note or _silent,
            on_progress=on_progress,
        )


def _build(
    onnx: Path,
    *,
    spec: ModelSpec,
    options: EngineOptions,
    trt: Any,
    timings: bytes | None,
    note: Note,
    on_progress: Progress | None,
) -> Built:
    started = time.perf_counter()
    log = logger_of(trt)
    log.clear()
    builder = _made(lambda: trt.Builder(log), "builder (is there a usable GPU?)", log)
    typed = strongly_typed(trt, options)
    network = builder.create_network(_creation_flags(trt, typed=typed))
    parser = trt.OnnxParser(network, log)
    if options.dla is not None and hasattr(trt, "OnnxParserFlag"):
        adjust = getattr(trt.OnnxParserFlag, "ADJUST_FOR_DLA", None)
        if adjust is not None:
            parser.set_flag(adjust)
    _parse(parser, network, onnx, spec=spec, trt=trt, log=log)
    config = builder.create_builder_config()
    sharing = getattr(getattr(trt, "PreviewFeature", None), "PROFILE_SHARING_0806", None)
    if sharing is not None:  # several contexts on one profile; TensorRT 10 does so anyway
        config.set_preview_feature(sharing, True)
    flags = ["STRONGLY_TYPED"] if typed else []
    flags += _set_flags(config, trt=trt, options=options, typed=typed)
    if not typed and options.precision == "fp16":
        flags += _hold_islands(network, config, trt=trt)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace * MIB)
    if options.level is not None:
        if hasattr(config, "builder_optimization_level"):
            config.builder_optimization_level = options.level
        else:
            note(f"TensorRT {trt.__version__} has no optimisation level: it builds at its own")
    if options.dla is not None:
        _use_dla(builder, config, trt=trt, options=options)
    _add_profile(builder, config, network, spec=spec, options=options)
    cache = _timing_cache(config, timings) if options.timing_cache else None
    monitor = make_monitor(trt, on_progress)
    if monitor is not None and hasattr(config, "progress_monitor"):
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.stopped is not None:
        raise monitor.stopped
    if plan is None:
        raise BackendError(
            f"TensorRT {trt.__version__} cannot build {onnx.name} for {sized(options.least)} to "
            f"{sized(options.most)}: {log.reason()}"
        )
    return Built(
        plan=bytes(plan),
        timings=None if cache is None else bytes(cache.serialize()),
        seconds=time.perf_counter() - started,
        flags=tuple(flags),
        warnings=log.warnings(),
    )


def strongly_typed(trt: Any, options: EngineOptions | None = None) -> bool:
    """Whether the types in the graph alone decide.

    Not for the DLA where the flags of weak typing are still there: TensorRT 10 gives it no strongly
    typed network; 11 gives it nothing else.
    """
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        # Gone for good when it is no choice any more; 8 has neither it nor a graph that decides.
        return not hasattr(trt.BuilderFlag, "FP16")
    weak = options is not None and options.dla is not None and hasattr(trt.BuilderFlag, "FP16")
    return not weak


def _creation_flags(trt: Any, *, typed: bool) -> int:
    kinds = trt.NetworkDefinitionCreationFlag
    flag = getattr(kinds, "STRONGLY_TYPED" if typed else "EXPLICIT_BATCH", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(parser: Any, network: Any, onnx: Path, *, spec: ModelSpec, trt: Any, log: Any) -> None:
    try:
        data = onnx.read_bytes()
    except OSError as error:
        raise BackendError(f"cannot read {onnx}: {error.strerror or error}") from error
    if parser.parse(data):
        if network.num_outputs == 0:  # it takes bytes of anything for an empty model
            raise BackendError(f"{onnx.name} holds no network: it is no ONNX file, or cut off")
        return
    found = [parser.get_error(i) for i in range(parser.num_errors)]
    reason = _parser_error(found[0], log) if found else log.reason()
    hint = ""
    if spec.precision == "int8" and not strongly_typed(trt):
        hint = ": TensorRT 8 takes the INT8 file of opset 17 with float32 scales (-int8-tensorrt8)"
    raise BackendError(f"TensorRT {trt.__version__} cannot read {onnx.name}: {reason}{hint}")


def _parser_error(parser_error: Any, log: Any) -> str:
    """ "node 'Conv_3' (Conv): ..."; where an old version has no names, the node's number."""
    name = parser_error.node_name() if hasattr(parser_error, "node_name") else ""
    kind = parser_error.node_operator() if hasattr(parser_error, "node_operator") else ""
    node = f"node {name!r}" if name else f"node {parser_error.node()}"
    text = " ".join(str(parser_error.desc()).split())
    if len(text) < 12 and log.lines:  # "false" is all that it says of an operator it has not
        text = log.reason()
    return f"{node}{f' ({kind})' if kind else ''}: {text}"


def _set_flags(config: Any, *, trt: Any, options: EngineOptions, typed: bool) -> list[str]:
    """Set what the graph's precision asks for; names of the flags."""
    wanted: list[str] = []
    if not typed:
        # INT8 as well as FP16 for a Q/DQ graph: what lies between the quantised layers may be half.
        wanted = {"fp32": [], "fp16": ["FP16"], "int8": ["INT8", "FP16"]}[options.precision]
    if options.dla is not None:
        wanted = [*wanted, "GPU_FALLBACK"]
    done = []
    for name in wanted:
        flag = getattr(trt.BuilderFlag, name, None)
        if flag is not None:
            config.set_flag(flag)
            done.append(name)
    if options.precision == "fp32":
        # TF32 has the 10 bits of a half: whoever asks for fp32 wants its digits.
        tf32 = getattr(trt.BuilderFlag, "TF32", None)
        if tf32 is not None:
            config.clear_flag(tf32)
            done.append("no TF32")
    return done


# Those that compute; casts, constants and shapes follow from them.
COMPUTING = (
    *("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "ELEMENTWISE", "ACTIVATION", "UNARY"),
    *("PARAMETRIC_RELU", "REDUCE", "POOLING", "SCALE", "RESIZE", "SOFTMAX", "NORMALIZATION"),
)


def _hold_islands(network: Any, config: Any, *, trt: Any) -> list[str]:
    """Layers that the graph keeps in float32 stay so: weak typing would take half for them too."""
    obey = getattr(trt.BuilderFlag, "OBEY_PRECISION_CONSTRAINTS", None)
    kinds = {getattr(trt.LayerType, name, None) for name in COMPUTING} - {None}
    held = 0
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        computes = layer.type in kinds and layer.get_output(0).dtype == trt.DataType.FLOAT
        if computes and obey is not None and hasattr(layer, "precision"):
            layer.precision = trt.DataType.FLOAT
            held += 1
    if held:
        config.set_flag(obey)
        return [f"OBEY_PRECISION_CONSTRAINTS for {held} layers"]
    return []


def _use_dla(builder: Any, config: Any, *, trt: Any, options: EngineOptions) -> None:
    cores = int(builder.num_DLA_cores)
    if options.dla is None or options.dla >= cores:
        there = f"it has {cores}, counted from 0" if cores else "it has none"
        raise UsageError(f"DLA core {options.dla} is not on this device: {there}; leave --dla out")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = options.dla


def _add_profile(
    builder: Any, config: Any, network: Any, *, spec: ModelSpec, options: EngineOptions
) -> None:
    """One optimisation profile over all inputs; state follows the frame's batch and size."""
    profile = builder.create_optimization_profile()
    moving = False
    for index in range(network.num_inputs):
        entry = network.get_input(index)
        dims = tuple(entry.shape)
        if len(dims) != 4:
            raise BackendError(f"{spec.name}: input {entry.name} has {len(dims)} axes, not N C H W")
        shapes = [
            tuple(
                wanted if dim < 0 else dim
                for dim, wanted in zip(dims, (batch, dims[1], height, width), strict=True)
            )
            for batch, height, width in (options.least, options.usual, options.most)
        ]
        if -1 in dims:
            profile.set_shape(entry.name, *shapes)
            moving = True
        elif (dims[2], dims[3]) != options.usual[1:]:
            raise UsageError(
                f"{spec.name} takes {dims[3]}x{dims[2]} (width x height) and no other, the engine "
                f"was asked for with {options.usual[2]}x{options.usual[1]}"
            )
    if moving and config.add_optimization_profile(profile) < 0:
        raise BackendError(
            f"TensorRT takes no profile from {sized(options.least)} over {sized(options.usual)} "
            f"to {sized(options.most)} for {spec.name}"
        )


def _timing_cache(config: Any, timings: bytes | None) -> Any:
    """A timing cache in use, from what an earlier build gave or empty; None where there is none."""
    for data in (timings, b"") if timings else (b"",):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _made(make: Callable[[], Any], what: str, log: Any) -> Any:
    try:
        return make()
    except Exception as error:  # pybind11: TypeError, "factory function returned nullptr"
        reason = log.reason() if log.lines else " ".join(str(error).split())
        raise BackendError(f"TensorRT gives no {what}: {reason}") from error


def _silent(line: str) -> None:
    pass
