"""Products of a measured step in native code, where a compiler is found: rows of J, and their Gram matrix.

``native.c`` is compiled by gcc for this processor when a probe is first made, in about two seconds, and kept in the
user's cache. ``AUTOBATCH_NATIVE=0`` in the environment turns it off. Then, without a compiler, and for tensors that are
not float32 on a CPU, PyTorch makes the same products.
"""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

_logger = logging.getLogger("autobatch")
_SOURCE = Path(__file__).with_name("native.c")
# Threads are those of the OpenMP library that PyTorch has loaded: the result is linked without one.
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC")
_SWITCH = "AUTOBATCH_NATIVE"
# Products that each lane adds up in float32 before float64, at most, and bytes of rows that a core's cache holds.
_ADDED = 64
_CACHE = 512 << 10


class _Steps(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("sample", "position"))


class Native:
    """The compiled products of the shared library at a path.

    Attributes:
        lanes: floats that a vector of this processor holds.
    """

    def __init__(self, path: Path) -> None:
        self._library = library = ctypes.CDLL(str(path))
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        library.lanes.restype = number
        library.outer.argtypes = [*[number] * 4, pointer, _Steps, pointer, _Steps, pointer, number]
        library.convolved.argtypes = [number, *[pointer] * 7, number]
        library.gram.argtypes = [*[number] * 3, pointer, number, number, pointer, number]
        library.outer.restype = library.convolved.restype = library.gram.restype = None
        self.lanes: int = library.lanes()

    def add_gram(self, rows: Tensor, upper: Tensor, *, single: bool) -> None:
        """Add rows rowsᵀ to the upper triangle of F; a few entries below the diagonal are changed too.

        Args:
            rows: (B, n) float32, whose columns lie together.
            upper: (B, B) float64, contiguous.
            single: whether up to 64 products a lane are added up in float32 before they are in float64.
        """
        batch, columns = rows.shape
        most = _ADDED * self.lanes
        chunk = max(most // 2, min(most, _CACHE // (4 * batch) // self.lanes * self.lanes))
        self._library.gram(*(
            single,
            batch,
            columns,
            rows.data_ptr(),
            rows.stride(0),
            chunk,
            upper.data_ptr(),
            torch.get_num_threads(),
        ))

    def outer(self, left: Tensor, right: Tensor) -> Tensor | None:
        """Return (B, rows, width) of outer products of (B, T, rows) and (B, T, width), summed over T; or None."""
        if right.shape[2] < self.lanes or right.stride(2) != 1 or left.stride(2) != 1:
            return None
        (batch, count, rows), width = left.shape, right.shape[2]
        out = left.new_empty(batch, rows, width)
        self._library.outer(
            *(batch, count, rows, width, left.data_ptr(), _Steps(*left.stride()[:2])),
            *(right.data_ptr(), _Steps(*right.stride()[:2]), out.data_ptr(), torch.get_num_threads()),
        )
        return out

    def convolved(
        self, x: Tensor, g: Tensor, kernel: tuple[int, int], stride: tuple[int, int], before: tuple[int, int]
    ) -> Tensor | None:
        """Return J (B, *kernel, in, out) of a plain convolution in two dimensions; None where PyTorch must make it.

        It is of x (B, in, H, W), unpadded, and g (B, out, h, w), the output gradient, both float32; ``before`` are the
        rows and columns of padding in front.
        """
        images = [_image(x), _image(g)]
        if images[0] is None or images[1] is None or g.shape[1] < self.lanes or x.numel() == 0 or g.numel() == 0:
            return None
        padded = [
            max(ahead + size, (count - 1) * step + extent)
            for ahead, size, count, step, extent in zip(before, x.shape[2:], g.shape[2:], stride, kernel, strict=True)
        ]
        threads = torch.get_num_threads()
        scratch = x.new_zeros(threads, padded[0] * padded[1] * x.shape[1] + g[0].numel())
        out = x.new_empty(len(x), *kernel, x.shape[1], g.shape[1])
        geometry = _numbers(*kernel, *stride, *before, *padded)
        self._library.convolved(
            *(len(x), images[0], x.data_ptr(), images[1], g.data_ptr(), geometry),
            *(scratch.data_ptr(), out.data_ptr(), threads),
        )
        return out


def _image(tensor: Tensor) -> ctypes.Array[ctypes.c_int64] | None:
    """Return how images (B, C, H, W) lie, for ``native.c``; None where neither pixels nor channels lie together."""
    sample, channel, line, pixel = tensor.stride()
    _, channels, high, across = tensor.shape
    if (high > 1 and line != across * pixel) or 1 not in {channel, pixel}:
        return None
    return _numbers(channels, high, across, sample, channel, pixel)


def _numbers(*values: int) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


def native(*tensors: Tensor) -> Native | None:
    """Return the compiled products if they can multiply such tensors; None where PyTorch must do."""
    for tensor in tensors:
        plain = tensor.dtype is torch.float32 and tensor.is_cpu and type(tensor) is Tensor
        if not plain or tensor.is_neg() or tensor.layout is not torch.strided or tensor.requires_grad:
            return None
    return loaded()


@functools.cache
def loaded() -> Native | None:
    """Return the compiled products, compiled now where they are not in the cache; None where they cannot be had."""
    if os.environ.get(_SWITCH) == "0":
        return None
    try:
        return Native(_compiled())
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        _logger.info("measuring goes by PyTorch's own products, native ones cannot be had: %s", said)
        return None


def _compiled() -> Path:
    """Return the shared library in the cache."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise FileNotFoundError("no gcc found")

    # The compiler's version and what this processor can do are among its predefined macros.
    macros = _run(compiler, *_FLAGS, "-dM", "-E", "-x", "c", os.devnull)
    key = hashlib.sha256(_SOURCE.read_bytes() + repr(_FLAGS).encode() + macros.encode()).hexdigest()[:32]
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autobatch" / f"native-{key}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            parts = Path(scratch, "native.o"), Path(scratch, "native.so")
            _run(compiler, *_FLAGS, "-c", str(_SOURCE), "-o", str(parts[0]))
            _run(compiler, "-shared", str(parts[0]), "-o", str(parts[1]))
            parts[1].replace(path)
    return path


def _run(*command: str) -> str:
    said: str = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return said
