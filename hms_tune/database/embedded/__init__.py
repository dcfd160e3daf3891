"""The PostgreSQL of one machine, started by us where no address is given."""
