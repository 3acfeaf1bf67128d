"""Fakes of TensorRT's builder for the tests of key, cache and build: the bindings' names, no GPU.

A plan is the ONNX file behind "PLAN", so what an engine computes can be asked of ONNX Runtime.
`Trt8`, `Trt10` and `Trt11` differ in the names that the real versions have or have not.
"""

from __future__ import annotations

import enum
import itertools
import types
from typing import Any

import onnx

PLAN = b"PLAN"


class Cuda:
    """What a key asks of a GPU."""

    def __init__(self, name: str = "Orin", cc: tuple[int, int] = (8, 7), driver: str = "540.4"):
        self.name, self.cc, self.driver = name, cc, driver

    def device_name(self) -> str:
        return self.name

    def compute_capability(self) -> tuple[int, int]:
        return self.cc

    def driver_version(self) -> str:
        return self.driver


class Trt:
    """One version of the module. `calls` is what was asked of it, `refuses` what it says no to.

    plan_of   the graph's bytes -> those that the plan computes
    """

    __name__ = "tensorrt"
    creation: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    monitors = True
    node_names = True

    def __init__(self, version: str, *, dla: int = 0) -> None:
        self.__version__ = version
        self.calls: list[tuple[Any, ...]] = []
        self.refuses: dict[str, str] = {}
        self.plan_of = lambda graph: graph
        self.builds = 0
        self.dla = dla
        self.NetworkDefinitionCreationFlag = flag_enum(self.creation)
        self.BuilderFlag = flag_enum(self.flags)
        self.MemoryPoolType = flag_enum(("WORKSPACE",))
        self.DeviceType = flag_enum(("GPU", "DLA"))
        self.LayerType = flag_enum(("CONVOLUTION", "CAST"))
        self.DataType = flag_enum(("FLOAT", "HALF"))
        self.ILogger = Logger
        if self.monitors:
            self.IProgressMonitor = Monitor
            self.OnnxParserFlag = flag_enum(("ADJUST_FOR_DLA",))

    def Builder(self, logger: Any) -> Builder:
        self.logger = logger
        if "Builder" in self.refuses:
            logger.log(Logger.ERROR, self.refuses["Builder"])
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return Builder(self)

    def OnnxParser(self, network: Network, logger: Any) -> Parser:
        return Parser(self, network)


class Trt8(Trt):
    creation = ("EXPLICIT_BATCH", "EXPLICIT_PRECISION")
    flags = ("FP16", "INT8", "GPU_FALLBACK", "TF32", "OBEY_PRECISION_CONSTRAINTS")
    monitors = False
    node_names = False


class Trt10(Trt):
    creation = ("EXPLICIT_BATCH", "STRONGLY_TYPED")
    flags = ("FP16", "INT8", "GPU_FALLBACK", "TF32", "OBEY_PRECISION_CONSTRAINTS")


class Trt11(Trt):
    creation = ("STRONGLY_TYPED", "PREFER_AOT_PYTHON_PLUGINS")
    flags = ("GPU_FALLBACK", "TF32")


def flag_enum(names: tuple[str, ...]) -> Any:
    return enum.IntEnum("Flag", {name: index for index, name in enumerate(names)})


class Logger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        pass


class Monitor:
    def __init__(self) -> None:
        pass


class Network:
    def __init__(self) -> None:
        self.graph: onnx.ModelProto | None = None
        self.layers: list[Any] = []

    @property
    def num_inputs(self) -> int:
        assert self.graph is not None
        return len(self.graph.graph.input)

    @property
    def num_outputs(self) -> int:
        return 0 if self.graph is None else len(self.graph.graph.output)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> Any:
        return self.layers[index]

    def get_input(self, index: int) -> Any:
        assert self.graph is not None
        value = self.graph.graph.input[index]
        dims = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
        return types.SimpleNamespace(name=value.name, shape=tuple(dims))


class Parser:
    def __init__(self, trt: Trt, network: Network) -> None:
        self.trt, self.network = trt, network
        self.num_errors = 0

    def set_flag(self, flag: Any) -> None:
        self.trt.calls.append(("parser flag", flag.name))

    def parse(self, data: bytes) -> bool:
        if "parse" in self.trt.refuses:
            self.num_errors = 1
            return False
        try:
            self.network.graph = onnx.load_from_string(data)
        except Exception:
            return True  # as the real one, which finds an empty model in any bytes
        for node in self.network.graph.graph.node:
            kind = "CONVOLUTION" if node.op_type == "Conv" else "CAST"
            islands = "FLOAT" if "float" in node.name else "HALF"
            self.network.layers.append(Layer(self.trt, kind, islands))
        return True

    def get_error(self, index: int) -> Any:
        text = self.trt.refuses["parse"]
        error = types.SimpleNamespace(desc=lambda: text, node=lambda: 3)
        if self.trt.node_names:
            error.node_name, error.node_operator = lambda: "Conv_3", lambda: "Conv"
        return error


class Layer:
    def __init__(self, trt: Trt, kind: str, dtype: str) -> None:
        self.type = trt.LayerType[kind]
        self.precision: Any = None
        self._dtype = trt.DataType[dtype]

    def get_output(self, index: int) -> Any:
        return types.SimpleNamespace(dtype=self._dtype)


class Cache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data + b"T"


class Config:
    """Takes any attribute, as a pybind11 class does not: those that versions lack are left out."""

    def __init__(self, trt: Trt) -> None:
        self._trt = trt
        self.builder_optimization_level = 3
        if trt.monitors:
            self.progress_monitor: Any = None

    def set_flag(self, flag: Any) -> None:
        self._trt.calls.append(("flag", flag.name))

    def clear_flag(self, flag: Any) -> None:
        self._trt.calls.append(("no flag", flag.name))

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._trt.calls.append(("memory", pool.name, size))

    def add_optimization_profile(self, profile: Profile) -> int:
        self._trt.calls.append(("profile", profile.shapes))
        return -1 if "profile" in self._trt.refuses else 0

    def create_timing_cache(self, data: bytes) -> Cache | None:
        return None if data == b"damaged" else Cache(data)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        self._trt.calls.append(("timings", cache.data))
        return True


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes[name] = shapes


class Builder:
    def __init__(self, trt: Trt) -> None:
        self._trt = trt
        self.num_DLA_cores = trt.dla

    def create_network(self, flags: int) -> Network:
        kinds = [k.name for k in self._trt.NetworkDefinitionCreationFlag if flags >> int(k) & 1]
        self._trt.calls.append(("network", kinds))
        self._trt.network = Network()
        return self._trt.network

    def create_builder_config(self) -> Config:
        self._trt.config = Config(self._trt)
        return self._trt.config

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        trt = self._trt
        trt.builds += 1
        trt.logger.log(Logger.WARNING, "a layer\n was slow")
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None and not drive(monitor):
            return None
        if "build" in trt.refuses:
            trt.logger.log(Logger.ERROR, trt.refuses["build"])
            return None
        assert network.graph is not None
        return PLAN + trt.plan_of(network.graph.SerializeToString())


def drive(monitor: Any) -> bool:
    """Phases as TensorRT-RTX 1.7 reports them for a small network; False when told to stop."""
    phases = itertools.chain(
        [("start", "Building engine", None, 2), ("start", "Cloning", "Building engine", 4)],
        [("step", "Cloning", i) for i in range(4)],
        [("finish", "Cloning"), ("step", "Building engine", 0)],
        [("start", "Timing", "Building engine", 10)],
        [("step", "Timing", i) for i in range(10)],
        [("finish", "Timing"), ("step", "Building engine", 1), ("finish", "Building engine")],
    )
    for kind, *rest in phases:
        if kind == "start":
            monitor.phase_start(*rest)
        elif kind == "finish":
            monitor.phase_finish(*rest)
        elif not monitor.step_complete(*rest):
            return False
    return True
