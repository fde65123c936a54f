"""Is [content_safety] complete, and does each of its keys mean something? Faults as (key, message); no network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from gateway.settings_identity import EXTRA, extra_installed, identity_faults, origin_fault
from gateway.settings_sinks import has

_VERSION: Final = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?")
_RANGES: Final = {"deadline_ms": (50, 60_000), "max_concurrent": (1, 1_000), "max_waiting": (0, 10_000)}


def content_safety_faults(
    section: Any, environ: Mapping[str, str], installed: Callable[[str], bool] = extra_installed
) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong and what to do). `section` is None where settings have none."""
    if section is None:
        return
    if not has("azure.ai.contentsafety", installed):
        yield "", f"Azure AI Content Safety: {EXTRA}"
    if fault := origin_fault(section.endpoint):
        yield "endpoint", f"`endpoint` {fault}"
    if (section.key is None) == (section.identity is None):
        yield "key", "needs either `key`, a reference, or an `identity`, such as `workload` or `managed`"
    yield from identity_faults(section, environ, installed)
    if section.identity == "on_behalf_of":
        yield "identity", "texts are judged for the gateway, not for a caller: `on_behalf_of` means nothing here"
    for key, (least, most) in _RANGES.items():
        if not least <= getattr(section, key) <= most:
            yield key, f"`{key}` must be from {least} to {most}"
    if not _VERSION.fullmatch(section.api_version):
        yield "api_version", "`api_version` must be a version such as 2023-10-01"
