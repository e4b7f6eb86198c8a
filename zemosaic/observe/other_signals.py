"""Metrics and log records of a run, for collectors that take more than traces.

Jaeger takes traces alone. A signal that the collector refuses is switched off, without a message.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .endpoint import signal_endpoint
from .exporters import metric_provider
from .log_sender import LogSender
from .telemetry import LogRecord, Meter


class OtherSignals:
    """Sends metrics and log records, as long as the collector takes them.

    Parameters
    ----------
    endpoint : str
        Endpoint of the traces.
    resource : Resource
        Resource of all signals.
    scope : InstrumentationScope
        Scope of all signals.

    Attributes
    ----------
    meter : Meter or None
        Source of instruments; None if metrics are off.
    """

    def __init__(self, endpoint: str, resource: Any, scope: Any) -> None:
        self.meter: Meter | None = None
        self._provider = None
        if address := signal_endpoint(endpoint, "metrics"):
            self._provider = metric_provider(address, resource)
            self.meter = self._provider.get_meter(scope.name, scope.version)
        logs = signal_endpoint(endpoint, "logs")
        self._logs = LogSender(logs, resource, scope) if logs else None

    def emit(self, record: LogRecord) -> None:
        """Send a log record; return at once."""
        if self._logs is not None:
            self._logs.put(record)

    def close(self, on_closed: Callable[[], None]) -> threading.Thread:
        """Send the last values in a thread, which calls `on_closed` at its end, and return it."""

        def work() -> None:
            try:
                if self._provider is not None:
                    self._provider.shutdown()
                if self._logs is not None:
                    self._logs.close()
            finally:
                on_closed()

        thread = threading.Thread(target=work, name="zemosaic-signals", daemon=True)
        thread.start()
        return thread
