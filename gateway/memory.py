"""How does freed memory get back to the system?"""

from __future__ import annotations

import ctypes

_MMAP_THRESHOLD = -3  # mallopt(3)
_LARGE = 1 << 20


def give_large_blocks_back() -> None:
    """Have the C library map blocks of a megabyte and more by themselves, and unmap them when they are freed.

    Its own bound rises to the largest block that was ever freed, so what loading a model needed for a moment would stay with the process:
    some 20 MB. To be called before anything is loaded; without effect where the library has no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE)
