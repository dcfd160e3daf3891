"""The search: Optuna between study files and trial configurations."""
