"""The jobs of `duskfuse`: the only code that imports ray. Each parses, reads, calls `fusion`, writes."""
