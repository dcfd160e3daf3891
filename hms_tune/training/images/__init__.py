"""Images of rows, made on the device and kept where there is room."""
