"""Augmentation: mosaic, copy-paste, affine, colour, flips, mixup; each one's draws, and what they do to an image."""
