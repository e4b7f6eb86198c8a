"""Groups of tiles sharing their gain or their level."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ..photometry.solver.ties import Ties
from ..photometry.tiles.file_options import SHARED, group_rules
from ..photometry.tiles.tile import Tile
from .run_context import RunContext


def tie_tiles(context: RunContext, count: int, tiles: Mapping[int, Tile]) -> Ties:
    """Return the ties between `count` tiles, of which some are usable, by the option `group`.

    A tile not from a file, or opened without the option, is not tied to others.
    """
    groupings: dict[str, list[list[str | None]]] = {kind: [[None] * count] for kind in SHARED}
    for number, (key, shared) in enumerate(group_rules(context.settings.group)):
        groups = {k: tile.groups[number] for k, tile in tiles.items() if number < len(tile.groups)}
        for kind in shared:
            groupings[kind].append([groups.get(index) for index in range(count)])
        different = len(set(groups.values()))
        if different == len(groups):
            context.note(logging.WARNING, f"no two tiles have the same {key}: none are grouped")
        else:
            context.note(
                logging.INFO,
                f"{len(groups)} tiles in {different} groups by {key} share their "
                + " and ".join(shared),
            )
    return Ties.of(groupings["gain"], groupings["level"])
