"""What images, perturbations and features look like: PCA, spectra, activation maps, and their figures."""

from srdef.interpret.pca import PCA

__all__ = ["PCA"]
