"""ablab: ablation studies of light object detectors, from one study file to a paper's table."""

__version__ = "0.1.0"
