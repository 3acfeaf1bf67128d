"""The fake GPU itself: it must see what a real one would not forgive."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorrt_sessions
from fake_cuda import FakeCuda, Misuse

quick_collection = tensorrt_sessions.quick_collection


def test_the_fake_sees_misuse() -> None:
    cuda = FakeCuda()
    cuda.make_current()
    stream, device, host = cuda.stream_create(), cuda.malloc(8), cuda.host_alloc(8)
    host[:] = 7
    cuda.copy_to_device(device, host, 8, stream)
    assert (cuda.device(device, 8) == 0xFF).all()  # nothing is done before it is waited for
    cuda.stream_synchronize(stream)
    assert (cuda.device(device, 8) == 7).all()
    for wrong in [
        lambda: cuda.device(device, 9),
        lambda: cuda.free(device + 1),
        lambda: cuda.host_free(np.zeros(8, np.uint8)),
        lambda: cuda.graph_launch(1, stream),
        lambda: cuda.stream_destroy(stream + 1),
        lambda: (cuda.copy_to_device(device, host, 9, stream), cuda.stream_synchronize(stream)),
        lambda: (cuda.copy_to_host(host, device, 8, stream), cuda.stream_destroy(stream)),
    ]:
        with pytest.raises(Misuse):
            wrong()
    stream = cuda.stream_create()
    cuda.copy_to_device(device, host, 8, stream)
    cuda.free(device)
    with pytest.raises(Misuse, match="not allocated"):
        cuda.free(device)
    with pytest.raises(Misuse, match="not allocated"):
        cuda.stream_synchronize(stream)
    with ThreadPoolExecutor(1) as pool, pytest.raises(Misuse, match="no device in this thread"):
        pool.submit(cuda.malloc, 4).result()
    with pytest.raises(AssertionError):
        cuda.check()
