"""A study as people ask about it: status, records, scores, control."""
