"""Work arrays that a thread keeps from call to call.

Fresh memory of a few MiB is handed back to the operating system, and costs more to touch again than a matrix
product takes to compute.
"""

from __future__ import annotations

import math
import threading

import numpy as np

_kept = threading.local()
# In elements: larger arrays are not kept.
KEEP_AT_MOST = 1 << 22


def work_array(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An uninitialized array, valid until this thread asks for the same name again.

    >>> work_array("total", (2, 3), np.float32).shape
    (2, 3)
    """
    size = math.prod(shape)
    if size > KEEP_AT_MOST:
        return np.empty(shape, dtype)
    arrays: dict[tuple[str, type], np.ndarray] = _kept.__dict__  # type: ignore[assignment]
    if (name, dtype) not in arrays or arrays[name, dtype].size < size:
        arrays[name, dtype] = np.empty(size, dtype)
    array: np.ndarray = arrays[name, dtype]
    return array[:size].reshape(shape)
