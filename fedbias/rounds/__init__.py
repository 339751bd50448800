"""Plan and Report: what server and client say to each other in one round.

Each is a frozen value here, and a flat record of scalars, text and bytes on the wire: a JSON
header in which settings are spelled in the notation (:mod:`fedbias.notation`, unknown names are
refused), and one packet per vector. A record goes into any transport that carries such a dict;
in Flower it is one ConfigRecord.
"""

from .plan import Plan
from .report import Measured, Report
from .wire import Record, dense, dense_vector, packet_of

__all__ = ["Measured", "Plan", "Record", "Report", "dense", "dense_vector", "packet_of"]
