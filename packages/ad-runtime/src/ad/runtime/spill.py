"""What grows with the number of pictures: in memory up to a budget, in a temporary file past it.

The file has no name, so that it is gone however the process ends, and lies in the folder of TMPDIR.
It is read and written, not mapped: pages of a mapped file count as the process's memory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from array import array
from collections.abc import Sequence
from typing import Any, final, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ad.runtime.budget import memory_budget
from ad.runtime.errors import OutputError

_RESERVE = 2**28  # bytes that are left free on the disk


def check_room(size: int, what: str) -> None:
    """Refuse what will not fit into the folder of temporary files.

    Args:
        size: In bytes.
        what: What it is for, in the plural.

    Raises:
        OutputError: If so much is not free there, and a little more.
    """
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if size + _RESERVE > free:
        raise _no_room(what, size, f"{free:,} are free")


def on_disk(size: int, what: str) -> NDArray[np.uint8]:
    """Room in a temporary file, mapped, whose name is gone at once; freed when the array is.

    Args:
        size: In bytes.
        what: What it is for, in the plural.

    Raises:
        OutputError: If there is not so much room.
    """
    try:
        with tempfile.TemporaryFile(prefix=f"ad-{what}-") as file:
            if hasattr(os, "posix_fallocate"):  # without it a full disk would kill the process
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype=np.uint8, mode="w+", shape=(size,))
    except OSError as error:
        raise _no_room(what, size, str(error.strerror)) from error


def _no_room(what: str, size: int, why: str) -> OutputError:
    msg = (
        f"The {what} of this run need {size:,} bytes in `{tempfile.gettempdir()}` ({why}). Make "
        "room there, or set TMPDIR to a folder that has it."
    )
    return OutputError(msg)


@final
class _File:
    """A temporary file of arrays.

    Args:
        what: What they are, in the plural.

    Raises:
        OutputError: If there is no folder for it.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self.size = 0
        self._lock = threading.Lock()
        try:
            self._file = tempfile.TemporaryFile(  # noqa: SIM115 - it is closed with this object
                prefix=f"ad-{what}-", buffering=0
            )
        except OSError as error:
            raise _no_room(what, 0, str(error.strerror)) from error
        weakref.finalize(self, self._file.close)

    def write(self, numbers: NDArray[Any], at: int | None = None) -> int:
        """Write an array, at the end if not told where; says where it is.

        Raises:
            OutputError: If the disk is full.
        """
        left = np.ascontiguousarray(numbers).reshape(-1).view(np.uint8).data
        with self._lock:
            at = start = self.size if at is None else at
            try:
                while left:
                    self._file.seek(at)
                    written = self._file.write(left)
                    left, at = left[written:], at + written
            except OSError as error:
                raise _no_room(self._what, at + len(left), str(error.strerror)) from error
            self.size = max(self.size, at)
        return start

    def read(self, at: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Read an array that was written.

        Raises:
            OutputError: If it cannot be read any more.
        """
        found = np.empty(shape, dtype)
        left = found.reshape(-1).view(np.uint8).data
        with self._lock:
            while left:
                self._file.seek(at)
                count = self._file.readinto(left)
                if not count:
                    raise _no_room(self._what, self.size, "the temporary file was cut off")
                left, at = left[count:], at + count
        return found


@final
class Arrays:
    """An array for each number, or None: the same whether it is in memory or on disk.

    Args:
        count: How many numbers there are.
        what: What the arrays are, in the plural.
        budget: Bytes to keep in memory; `memory_budget` by default.
    """

    def __init__(self, count: int, what: str, *, budget: int | None = None) -> None:
        self._budget = memory_budget() if budget is None else budget
        self._what = what
        self._held: list[NDArray[Any] | None] = [None] * count
        self._bytes = 0
        self._file: _File | None = None
        self._places = np.full(count, -1, np.int64)
        self._forms: list[tuple[tuple[int, ...], np.dtype[Any]]] = []  # few, most often one
        self._form_of = np.zeros(count, np.int32)

    @property
    def on_disk(self) -> int:
        """Bytes that are in a temporary file; 0 while all is in memory."""
        return 0 if self._file is None else self._file.size

    def put(self, number: int, kept: NDArray[Any]) -> None:
        """Keep the array of a number that has none yet.

        Raises:
            OutputError: If the disk is full.
        """
        self._bytes += kept.nbytes
        if self._file is None and self._bytes <= self._budget:
            self._held[number] = kept
            return
        if self._file is None:
            self._file = _File(self._what)
            for place, held in enumerate(self._held):
                if held is not None:
                    self._write(place, held)
            self._held.clear()
        self._write(number, kept)

    def _write(self, number: int, kept: NDArray[Any]) -> None:
        assert self._file is not None
        form = (kept.shape, kept.dtype)
        if form not in self._forms:
            self._forms.append(form)
        self._form_of[number] = self._forms.index(form)
        self._places[number] = self._file.write(kept)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> NDArray[Any] | None:
        if self._file is None:
            return self._held[number]
        place = int(self._places[number])
        return None if place < 0 else self._file.read(place, *self._forms[self._form_of[number]])

    def some(self, numbers: Sequence[int]) -> Some:
        """Those of some numbers, in that order; nothing is read before it is asked for."""
        return Some(self, numbers)


@final
class Some(Sequence["NDArray[Any] | None"]):
    """Some of `Arrays`.

    Args:
        arrays: All of them.
        numbers: Which.
    """

    def __init__(self, arrays: Arrays, numbers: Sequence[int]) -> None:
        self.arrays = arrays
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, number: int) -> NDArray[Any] | None: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[NDArray[Any] | None]: ...

    def __getitem__(
        self, number: int | slice
    ) -> NDArray[Any] | None | Sequence[NDArray[Any] | None]:
        if isinstance(number, slice):
            return Some(self.arrays, self._numbers[number])
        return self.arrays[self._numbers[number]]


@final
class Column:
    """Numbers of one type, in a temporary file: added at the end, read part by part.

    Args:
        dtype: Their type.
        what: What they are, in the plural.
    """

    def __init__(self, dtype: DTypeLike, what: str) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._file = _File(what)

    @property
    def size(self) -> int:
        """How many there are."""
        return self._file.size // self.dtype.itemsize

    def append(self, numbers: NDArray[Any]) -> None:
        """Add some at the end.

        Raises:
            OutputError: If the disk is full.
        """
        self._file.write(numbers.astype(self.dtype, casting="safe", copy=False))

    def put(self, start: int, numbers: NDArray[Any]) -> None:
        """Write some over those that are there, from one on."""
        at = start * self.dtype.itemsize
        self._file.write(numbers.astype(self.dtype, casting="safe", copy=False), at)

    def __getitem__(self, part: slice) -> NDArray[Any]:
        start, stop, step = part.indices(self.size)
        width = self.dtype.itemsize
        return self._file.read(start * width, (max(0, stop - start),), self.dtype)[::step]


@final
class Texts:
    """Texts in a temporary file, added at the end.

    Args:
        what: What they are, in the plural.
    """

    def __init__(self, what: str) -> None:
        self._file = _File(what)
        self._ends = array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, text: str) -> None:
        """Add one.

        Raises:
            OutputError: If the disk is full.
        """
        self._file.write(np.frombuffer(text.encode(), np.uint8))
        self._ends.append(self._file.size)

    def __getitem__(self, number: int) -> str:
        at, end = self._ends[number : number + 2]
        return self._file.read(at, (end - at,), np.dtype(np.uint8)).tobytes().decode()
