"""PostgreSQL: connections, tables, and every query."""
