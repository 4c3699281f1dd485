"""Content-addressed results of stages, on a disk or in object storage.

    store.json                                            {"format": 2}
    stages/<ab>/<abcdef...>/stage.json + files            published: whole, never changed again
    work/<abcdef...>/<token>/lease.json + work files      one attempt each; the highest token holds the stage
    studies/<study>.json                                  the stages that a study needs
    quarantine/                                           stages that no longer are what was published

A stage is published in one step, a rename on a disk and a conditional write in object storage, so that a crash leaves
either all of it or none. Who works on it holds a lease with a fencing token: see `ablab.store.lease`.
"""

from ablab.store.errors import BusyError, DamagedError, LostLeaseError, StoreError
from ablab.store.files import checksum
from ablab.store.lease import Hold
from ablab.store.store import Store

__all__ = ["BusyError", "DamagedError", "Hold", "LostLeaseError", "Store", "StoreError", "checksum"]
