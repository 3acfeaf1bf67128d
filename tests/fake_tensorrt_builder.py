"""`FakeTrt` with a builder: an engine is the ONNX file and the profile asked for."""

from __future__ import annotations

import enum
from typing import Any

import onnx
from fake_cuda import FakeCuda
from fake_tensorrt import FakeTrt, ILogger, Severity, make_plan


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH, STRONGLY_TYPED = range(2)


class BuilderFlag(enum.IntEnum):
    TF32, REFIT = range(2)


class BuildingTrt(FakeTrt):
    """builds   how many engines it has built."""

    NetworkDefinitionCreationFlag, BuilderFlag = NetworkDefinitionCreationFlag, BuilderFlag

    def __init__(self, cuda: FakeCuda, *, version: str = "10.3.0") -> None:
        super().__init__(cuda, version=version)
        self.builds = 0
        self.Builder = lambda logger: Builder(self)
        self.OnnxParser = OnnxParser


class Tensor:
    def __init__(self, value: Any) -> None:
        self.name = value.name
        dims = value.type.tensor_type.shape.dim
        self.shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)


class Network:
    graph = b""
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]


class OnnxParser:
    num_errors = 0

    def __init__(self, network: Network, logger: ILogger) -> None:
        self._network, self._logger = network, logger

    def parse(self, data: bytes) -> bool:
        try:
            graph = onnx.load_from_string(data).graph
        except Exception as error:
            self._logger.log(Severity.ERROR, f"Failed to parse the model: {error}")
            return False
        self._network.graph = data
        self._network.inputs = tuple(Tensor(value) for value in graph.input)
        self._network.outputs = tuple(Tensor(value) for value in graph.output)
        return True


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Any, ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self.shapes[input] = (min, opt, max)


class Config:
    def __init__(self) -> None:
        self.profiles: list[Profile] = []

    def set_flag(self, flag: BuilderFlag) -> None: ...

    def clear_flag(self, flag: BuilderFlag) -> None: ...

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> None:
        return None


class Builder:
    num_DLA_cores = 0

    def __init__(self, trt: BuildingTrt) -> None:
        self._trt = trt

    def create_network(self, flags: int) -> Network:
        return Network()

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> bytes:
        self._trt.builds += 1
        (profile,) = config.profiles
        low, _, high = profile.shapes[network.inputs[0].name]
        return make_plan(
            network.graph,
            low=low,
            high=high,
            version=self._trt.__version__,
            gpu=self._trt.cuda.name,
        )
