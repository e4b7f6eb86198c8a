"""The phase: stages that compose the wings, the tasks of workers, and the results."""

#: Modules that worker processes import before their first task.
PRELOAD = (f"{__name__}.calibrate",)
