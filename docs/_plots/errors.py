"""Errors of the gains of simulated mosaics, in units of the claimed errors."""

import matplotlib.pyplot as plt
import numpy as np

from zemosaic import calibrate
from zemosaic.photometry.simulate import Scene, align_truth, simulate

deviations = []
for seed in range(8):
    simulated = list(simulate(Scene(tiles=16, shape=(256, 256), seed=seed)))
    solution = calibrate([(s.data, s.wcs) for s in simulated], pool="serial", observers=[])
    truth = [np.array([getattr(s, name) for s in simulated]) for name in ("gain", "offset")]
    gain, _ = align_truth(solution, *truth)
    deviations.append(((solution.gain - gain) / solution.gain_err).ravel())
z = np.concatenate(deviations)

figure, axes = plt.subplots(figsize=(5, 3))
axes.hist(z, bins=np.arange(-4, 4.1, 0.5), density=True, color="0.75")
x = np.linspace(-4, 4, 161)
axes.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), "C0", label="standard normal")
axes.set(xlabel="(gain − truth) / error", ylabel="density")
axes.set_title(f"rms {np.std(z):.2f}, {len(z)} tiles")
axes.legend(frameon=False)
