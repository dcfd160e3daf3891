"""Leading trials of a search, trained again with fresh seeds and folds."""
