"""optuna-dashboard with our notes, figures and files."""
