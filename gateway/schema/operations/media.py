"""Is an image what it says it is, and may a URL be handed to a backend? Nothing here reads what a picture shows.

A `data:` image must be one of four raster formats by its first bytes, whatever it calls itself; SVG is a program and never is.
A remote URL is only ever fetched by the backend, never here, and only under a grant; what it must look like keeps it away from
addresses inside the backend's network (advisories against model servers and gateways: redirects, private and link-local
addresses, alternative spellings of numbers). The backend's own guard against redirects is still needed.
"""

from __future__ import annotations

import binascii
import re

MAX_DATA_URL = 28_000_000  # code points: 20 MiB of image
MAX_URL = 2_048

_MAGIC: tuple[tuple[str, int, bytes], ...] = (
    ("data:image/png;base64,", 0, b"\x89PNG\r\n\x1a\n"),
    ("data:image/jpeg;base64,", 0, b"\xff\xd8\xff"),
    ("data:image/gif;base64,", 0, b"GIF87a"),
    ("data:image/gif;base64,", 0, b"GIF89a"),
    ("data:image/webp;base64,", 8, b"WEBP"),
)
# A host of letters with a public-looking last label: no address literal in any base, no port, no user, no lone label.
_REMOTE = re.compile(
    r"https://(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,8}[a-z]{2,24}/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*", re.ASCII
)
_INSIDE_LIST = "local localhost internal intranet lan home corp arpa test invalid example onion svc"
_INSIDE = frozenset(_INSIDE_LIST.split())


def is_data_image(url: str) -> bool:
    """Return whether `url` is a base64 `data:` URL whose bytes begin as the format it names."""
    for prefix, at, magic in _MAGIC:
        if url.startswith(prefix):
            try:
                data = binascii.a2b_base64(url[len(prefix) :], strict_mode=True)
            except ValueError:
                return False
            if data[at : at + len(magic)] == magic and (at == 0 or data[:4] == b"RIFF"):
                return True
    return False


def is_base64(data: str) -> bool:
    try:
        return bool(binascii.a2b_base64(data, strict_mode=True))
    except ValueError:
        return False


def is_remote(url: str) -> bool:
    """Return whether `url` is https to a public-looking host name, on the usual port, without user, fragment or dot segments."""
    if len(url) > MAX_URL or _REMOTE.fullmatch(url) is None:
        return False
    host, _, rest = url[8:].partition("/")
    return host.rpartition(".")[2] not in _INSIDE and ".." not in rest
