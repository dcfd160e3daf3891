"""Pictures and pages: what a recording looks like, and what a competition folder holds."""
