"""Pictures drawn with matplotlib: of studies, predictions, competition folders and EEG windows."""
