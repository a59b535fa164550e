"""What a GGUF file holds, and a model folder made of one; writing such files is the export's."""

from smidgen.gguf.folder import Imported, cached_import, import_gguf, imported_facts

__all__ = ["Imported", "cached_import", "import_gguf", "imported_facts"]
