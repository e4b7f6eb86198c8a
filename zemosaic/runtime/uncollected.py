"""Imported by the forkserver first: its imports are an eighth faster without garbage collection.

Workers collect again (`worker_process.serve`), without the objects of the server.
"""

import gc

gc.disable()
