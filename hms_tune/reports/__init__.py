"""Pages and pictures of studies and of competition folders, and the dashboard."""
