"""Detectors as four interchangeable parts: stem, backbone, neck, head."""
