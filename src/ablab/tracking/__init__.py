"""MLflow, the record of studies: nothing outside this package imports it.

    connect(uri, create)            a client, or a UserError at once: asked before anything is trained
    Live(study, uri, warn, read)    write while a sweep runs, and never keep it waiting
    record(study, uri, read)        write what the driver knows; twice is the same as once
    read(uri, study)                the study and its runs, from params, metrics and tags alone
    curves(uri, children, metric)   a metric's whole history
    digest_of(uri, study)           what a finished study's record is told by
    fingerprints(uri)               the stages that current runs of all studies name
    log_report(uri, study, folder)  put the rendered report beside the study
    ui(uri, port)                   MLflow's pages on the loopback address

One experiment a study, one parent run, one child run a variant and seed. Times are those of the stages.
"""

from ablab.tracking.connect import connect
from ablab.tracking.live import Live
from ablab.tracking.read import curves, digest_of, fingerprints, read
from ablab.tracking.server import ui
from ablab.tracking.write import log_report, record

__all__ = ["Live", "connect", "curves", "digest_of", "fingerprints", "log_report", "read", "record", "ui"]
