"""The fleet: many workers, one study, one PostgreSQL, no trial lost and none run twice."""
