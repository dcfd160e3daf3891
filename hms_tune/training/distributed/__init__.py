"""Several devices that train one trial."""
