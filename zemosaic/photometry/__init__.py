"""Numerics of the calibration: functions of arrays, without futures, logs, clocks or telemetry.

Each package imports only those before it: `tiles` are read and resampled to a `preview`, the
`overlap` graph selects pairs, `pairfit` measures them, and the `solver` finds the corrections that
`apply` and `mosaic` use. `simulate` makes tiles with known truth.
"""
