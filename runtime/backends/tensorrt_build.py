"""A TensorRT engine for a typed ONNX file: out of the cache, or built and kept there.

`trt` is the module `tensorrt` (or `tensorrt_rtx_bindings`, or a fake), `cuda` a
`edgesr.runtime.backends.cuda.Cuda`: nothing here imports either.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from edgesr.errors import BackendError, EdgesrError, ModelError
from edgesr.files import replacing
from edgesr.onnxmeta import read_metadata
from edgesr.runtime.backends.engine import (
    EngineKey,
    Sidecar,
    StaleEngine,
    cache_folder,
    cached_path,
    digest_of,
    here,
    load_engine,
    locked,
    make_key,
    read_plan,
    read_sidecar,
    save_engine,
    why_none,
)
from edgesr.runtime.backends.engine_options import EngineOptions, engine_options
from edgesr.runtime.backends.engine_prune import prune, touch
from edgesr.runtime.backends.tensorrt_builder import Note, Progress, build_engine
from edgesr.runtime.backends.tensorrt_builder import logger_of as logger_of
from edgesr.spec import METADATA_KEY, ModelSpec


def build_or_load(
    onnx_path: Path,
    *,
    spec: ModelSpec,
    options: EngineOptions,
    trt: Any,
    cuda: Any,
    on_note: Note | None = None,
    on_progress: Progress | None = None,
    folder: Path | None = None,
    unusable: str | None = None,
) -> bytes:
    """The plan for this file, these options and this machine.

    on_note      told in one line why an engine that was there is built again, and what is built
    on_progress  see `tensorrt_builder.Progress`
    folder       of the cache; None: the user's
    unusable     why what the cache gave must not be given again: build anew

    Two processes that want the same engine build it once: the second waits. Where the cache cannot
    be written the plan is built all the same, with a note. After a build the cache is brought below
    its limit, see `engine_prune`. Raises BackendError, UsageError.
    """
    note = on_note or _silent
    key = make_key(onnx_path, options=options, trt=trt, cuda=cuda)
    folder = cache_folder() if folder is None else folder
    path = cached_path(spec, key, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = locked(path.with_suffix(".lock"), on_note=on_note, what=f"the engine of {spec.name}")
        with lock:
            return _under_lock(
                path,
                onnx_path,
                spec=spec,
                key=key,
                trt=trt,
                note=note,
                on_progress=on_progress,
                unusable=unusable,
            )
    except OSError as error:
        if isinstance(error, EdgesrError):
            raise
        note(f"the engine cache {folder} cannot be used ({error.strerror or error}): not kept")
        built = build_engine(
            onnx_path,
            spec=spec,
            options=options,
            trt=trt,
            on_note=on_note,
            on_progress=on_progress,
        )
        return built.plan


def _under_lock(
    path: Path,
    onnx: Path,
    *,
    spec: ModelSpec,
    key: EngineKey,
    trt: Any,
    note: Note,
    on_progress: Progress | None,
    unusable: str | None,
) -> bytes:
    why = unusable
    if why is None and (path.exists() or path.with_suffix(".json").exists()):
        try:
            plan = load_engine(path, key=key)
            touch(path)
            return plan
        except StaleEngine as error:
            why = str(error)
    elif why is None:
        why = why_none(spec, key, path.parent)
    if why is not None:
        note(f"the engine of {spec.name} is built again: {why}")
    note(f"building the {key.options.precision} engine of {spec.name} for {key.gpu}, once")
    timings = path.parent / f"timings-{_digest(key.tensorrt, key.gpu, key.compute, key.driver)}.bin"
    built = build_engine(
        onnx,
        spec=spec,
        options=key.options,
        trt=trt,
        timings=_read(timings) if key.options.timing_cache else None,
        on_note=note,
        on_progress=on_progress,
    )
    if digest_of(onnx) != key.model:
        raise ModelError(f"{onnx} was changed while its engine was built: try again")
    try:
        if built.timings is not None:
            with replacing(timings) as part:
                part.write_bytes(built.timings)
        save_engine(path, built.plan, spec=spec, key=key, built=built.facts())
    except OSError as error:  # a full disk must not cost the minutes that the build took
        note(f"the engine is not kept: {path} cannot be written: {error.strerror or error}")
    if (line := prune(path.parent, keep=path)) is not None:
        note(line)
    return built.plan


def open_plan(
    path: Path,
    *,
    trt: Any,
    cuda: Any,
    spec: ModelSpec | None = None,
    on_note: Note | None = None,
    on_progress: Progress | None = None,
    folder: Path | None = None,
) -> tuple[bytes, ModelSpec]:
    """The bytes of a `.plan` that the user names, once its sidecar agrees with this machine.

    One that does not fit is built again from the ONNX file of the same name beside it (into the
    cache; the user's file stays as it is), with a line saying why. Without that file BackendError.
    Another driver is no reason to refuse: TensorRT allows it; a note says so.

    spec   of the model that was asked for, where it is known
    """
    note = on_note or _silent
    onnx = path.with_suffix(".onnx")
    sidecar: Sidecar | None = None
    try:
        sidecar = read_sidecar(path)
        if spec is not None and sidecar.spec != spec:
            raise StaleEngine(f"it is an engine of {sidecar.spec.name}, not of {spec.name}")
        model = digest_of(onnx) if onnx.is_file() else sidecar.key.model
        now = EngineKey(model=model, options=sidecar.key.options, **here(trt=trt, cuda=cuda))
        reasons = sidecar.key.unlike(now)
        driver = reasons.pop("driver", None)
        if reasons:
            raise StaleEngine(", ".join(reasons.values()))
        plan = read_plan(path, sidecar)
    except StaleEngine as error:
        if not onnx.is_file():
            raise BackendError(
                f"{path} cannot be used here: {error}; build it on this device: give the ONNX file "
                "that it was made from instead (edgesr export MODEL.onnx --trt fp16)"
            ) from error
        note(f"{path} is not used: {error}; {onnx.name} beside it is built instead")
        its = _spec_of(onnx)
        options = sidecar.key.options if sidecar is not None else engine_options(its)
        plan = build_or_load(
            onnx,
            spec=its,
            options=options,
            trt=trt,
            cuda=cuda,
            on_note=on_note,
            on_progress=on_progress,
            folder=folder,
        )
        return plan, its
    if driver is not None:
        note(f"{path}: {driver}; it may run slower than one built here")
    return plan, sidecar.spec


def _spec_of(onnx: Path) -> ModelSpec:
    facts = read_metadata(onnx).get(METADATA_KEY)
    if facts is None:
        raise ModelError(f"{onnx} carries no edgesr facts: export it with `edgesr export {onnx}`")
    return ModelSpec.from_json(facts)


def _digest(*facts: str) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _silent(line: str) -> None:
    pass
