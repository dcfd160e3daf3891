"""How many slots a device takes."""
