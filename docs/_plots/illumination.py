"""The fitted illumination of a simulated camera, and its difference from the truth."""

import matplotlib.pyplot as plt
import numpy as np

from zemosaic import calibrate
from zemosaic.photometry.simulate import Scene, simulate

simulated = list(simulate(Scene(tiles=16, vignetting=0.2, seed=3)))
tiles = [(item.data, item.wcs) for item in simulated]
solution = calibrate(tiles, pool="serial", observers=[])
fitted = solution.illuminations[0].factor()[0]
truth = np.broadcast_to(simulated[0].flat, fitted.shape)
truth = truth / np.exp(np.log(truth).mean())

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8))
shown = left.imshow(fitted, origin="lower", cmap="gray")
figure.colorbar(shown, ax=left, shrink=0.9)
left.set_title("illumination")
difference = 100 * (fitted / truth - 1)
shown = right.imshow(difference, origin="lower", cmap="RdBu_r", vmin=-1, vmax=1)
figure.colorbar(shown, ax=right, shrink=0.9)
right.set_title("difference from the truth / %")
