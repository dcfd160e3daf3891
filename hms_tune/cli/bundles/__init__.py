"""Commands that write bundles, and that use them."""
