"""Log records for a collector, sent by a thread of their own."""

from __future__ import annotations

import threading
from queue import Full, Queue
from typing import Any

from .exporters import encode_log, log_client
from .telemetry import LogRecord

MAX_RECORDS = 1000  # log records that wait for the collector


class LogSender:
    """Sends log records until the collector refuses them.

    Parameters
    ----------
    endpoint : str
        Address for log records.
    resource : Resource
        Resource of the records.
    scope : InstrumentationScope
        Scope of the records.
    """

    def __init__(self, endpoint: str, resource: Any, scope: Any) -> None:
        self._resource, self._scope = resource, scope
        self._client = log_client(endpoint)
        self._records: Queue[LogRecord | None] = Queue(MAX_RECORDS)
        self._thread = threading.Thread(target=self._work, name="zemosaic-logs", daemon=True)
        self._thread.start()

    def put(self, record: LogRecord) -> None:
        """Send a record; with a full queue it is lost, but the file and the trace have it."""
        try:
            self._records.put_nowait(record)
        except Full:
            return

    def close(self) -> None:
        """Send the waiting records and end the thread."""
        self._records.put(None)
        self._thread.join()
        self._client.close()

    def _work(self) -> None:
        taken = True
        while (record := self._records.get()) is not None:
            if taken:
                taken = self._client.post(encode_log(record, self._resource, self._scope))
