"""The parts of the drop-in `zemosaic.zemosaic_utils`: arguments, tiles, reports and results."""
