"""Every defect of a competition folder in one list."""
