"""Messages to people about a study."""
