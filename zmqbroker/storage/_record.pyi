"""Types of the compiled twin of `_record_py`, which is ext/_record.pyx; what its functions do is said there."""

from zmqbroker.storage._record_py import encode_record as encode_record
from zmqbroker.storage._record_py import has_zero_sector as has_zero_sector

__all__ = ["encode_record", "has_zero_sector"]
