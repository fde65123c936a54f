"""How do spans get into Application Insights? Through Azure Monitor's OpenTelemetry exporter, and nothing but the spans.

The exporter would also report on itself to its maker, ask a control plane for switches and keep failed batches on disk. All of it is
turned off before it is imported: what leaves this process goes where settings say.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any, Final

_OFF: Final = (
    "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL",
    "APPLICATIONINSIGHTS_SDKSTATS_DISABLED",
    "APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED",
)
TIMEOUT_S: Final = 10.0


def span_exporter(connection_string: str) -> Any:
    """Return the exporter. Raises `ImportError` without the `appinsights` extra, `ValueError` for a connection string that is none."""
    for name in _OFF:
        os.environ[name] = "True"
    # SECURITY: were it set, the exporter would take an identity from there in place of what settings say.
    os.environ.pop("APPLICATIONINSIGHTS_AUTHENTICATION_STRING", None)
    module: Any = importlib.import_module("azure.monitor.opentelemetry.exporter")
    logging.getLogger("azure.monitor.opentelemetry.exporter").setLevel(logging.ERROR)
    return module.AzureMonitorTraceExporter(
        connection_string=connection_string,
        disable_offline_storage=True,
        timeout=TIMEOUT_S,
        retry_total=0,
        read_timeout=TIMEOUT_S,
    )
