"""One file a part; the contract is in ablab.models.detector."""
