"""Data: readers to one in-memory form, preprocessing, augmentation, batches, and what identifies a dataset."""
