"""Hostile file names."""

from __future__ import annotations

EVIL = [
    "<img src=x onerror=\"document.title='broken'\">.fits",
    '</script><script>document.title="broken"</script>.fits',
    "a & \"b\" 'c' ${x} `d`.fits",
    "\udcff no UTF-8.fits",
]
