"""The prepared, memory-mapped form of a competition folder, and windows read from it."""
