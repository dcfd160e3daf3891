"""What a person writes: study files, ranges, trial configurations, settings from the environment."""
