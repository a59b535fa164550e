"""The store of a memory router: it finds candidates, applies decisions once, and loses no input.

It knows no model: it is handed decisions. See `smidgen.memory.store`.
"""

from smidgen.memory.journal import Entry
from smidgen.memory.reading import Input, Kind, Memory, Page
from smidgen.memory.store import Applied, Store
from smidgen.memory.verify import Report, Restored, restore, verify

__all__ = [
    "Applied",
    "Entry",
    "Input",
    "Kind",
    "Memory",
    "Page",
    "Report",
    "Restored",
    "Store",
    "restore",
    "verify",
]
